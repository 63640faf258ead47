"""Runs the parts under supervisor: its configuration, its start, and the calls it answers; decides nothing else."""

import configparser
import contextlib
import http.client
import math
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from xmlrpc.client import Fault, ServerProxy, Transport

from mesh.failure import MeshFailure
from mesh.plan import Part, Plan
from mesh.state import MARKER, StateFolder

WATCHDOG: Final = "watchdog"
AUTOSCALER: Final = "autoscaler"
START_S: Final = 20  # a part that dies younger than this is retried more and more slowly
START_RETRIES: Final = 20  # then it stays down: some minutes of trying
STOP_S: Final = {"worker": 30, "gateway": 620, "envoy": 10}  # after SIGTERM; then SIGKILL to the whole group
PRIORITY: Final = {"worker": 10, "gateway": 20, "envoy": 30}  # started upwards, stopped downwards
WAIT_FOR_SOCKET_S: Final = 15.0
NOT_RUNNING: Final = 70  # supervisor's fault codes for stopping what does not run, or what it does not know
UNKNOWN_NAME: Final = 10


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What supervisor knows of a process. state: its own word, e.g. RUNNING; pid: None when there is none."""

    state: str
    pid: int | None


def config_text(plan: Plan, state: StateFolder) -> dict[str, dict[str, str]]:
    """supervisord.conf as sections. Paths in it are relative to the folder it is started in.

    Parts are named only: mesh.start_part finds their command and settings in the plan. Only TERM goes to the server
    alone (Triton must end its stubs itself to free their memory); KILL goes to the whole group.
    """
    files = min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    inside = state.socket.parent == state.runtime
    socket_file = state.socket.name if inside else str(state.socket).replace("%", "%%")
    sections = {
        "unix_http_server": {"file": socket_file, "chmod": "0600"},
        "supervisord": {"logfile": "../logs/supervisord.log", "pidfile": "supervisord.pid", "minfds": str(files)},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        f"eventlistener:{WATCHDOG}": {
            "command": "python3 -m mesh.watch",
            "events": "PROCESS_STATE",
            "autorestart": "true",
            "buffer_size": "1000",
            "stopsignal": "KILL",  # it has nothing to save
            "stdout_logfile": "NONE",  # what it says there is for supervisord; the default is a file in /tmp
            "stderr_logfile": f"../logs/{WATCHDOG}.log",
        },
    }
    if plan.options.autoscale:
        sections[f"program:{AUTOSCALER}"] = {
            "command": "python3 -m mesh.autoscaler",
            "autorestart": "true",
            "stopsignal": "KILL",  # what it leaves half done, the next change of numbers completes
            "redirect_stderr": "true",
            "stdout_logfile": f"../logs/{AUTOSCALER}.log",
        }
    return sections | {f"program:{part.name}": _program(part) for part in plan.parts}


def _program(part: Part) -> dict[str, str]:
    role = part.kind if part.model is None else "worker"
    return {
        "command": f"python3 -m mesh.start_part {part.name}",
        "priority": str(PRIORITY[role]),
        "autorestart": "true",
        "startsecs": str(START_S),
        "startretries": str(START_RETRIES),
        "stopwaitsecs": str(STOP_S[role]),
        "stopasgroup": "false",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": f"../logs/{part.name}.log",
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
    }


def write_config(plan: Plan, state: StateFolder) -> None:
    """Write supervisord.conf into the state folder."""
    config = configparser.RawConfigParser()
    config.read_dict(config_text(plan, state))
    with state.supervisor_config.open("w") as file:
        config.write(file)


class Refusal(MeshFailure):
    """What supervisord will not do. code: its number of the reason."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.code = code


class Supervisor:
    """The running supervisord of one state folder."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state

    def _call(self, method: str, *arguments: str | bool) -> object:
        transport = _UnixTransport(self._state.socket)
        try:
            with ServerProxy("http://localhost", transport=transport) as server:
                return getattr(server.supervisor, method)(*arguments)
        except OSError as error:
            raise MeshFailure(f"supervisord does not answer at {self._state.socket}: {error}") from error
        except Fault as fault:
            words = " ".join((method, *map(str, arguments)))
            raise Refusal(f"supervisord refuses {words}: {fault.faultString}", fault.faultCode) from fault

    def start(self) -> None:
        """Start supervisord in the background. Raises MeshFailure with its own words if it does not come up."""
        binaries = Path(sys.executable).parent
        environment = os.environ | {
            MARKER: str(self._state.path),
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", self._state.supervisor_config.name]
        result = subprocess.run(
            command, cwd=self._state.runtime, env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise MeshFailure(f"supervisord did not start:\n{result.stdout}{result.stderr}")
        deadline_s = time.monotonic() + WAIT_FOR_SOCKET_S
        while not self.is_running():
            if time.monotonic() > deadline_s:
                raise MeshFailure(f"supervisord does not answer; see {self._state.logs / 'supervisord.log'}")
            time.sleep(0.05)

    def is_running(self) -> bool:
        """True if it answers."""
        try:
            return cast(dict[str, object], self._call("getState"))["statename"] == "RUNNING"
        except MeshFailure:
            return False

    def states(self) -> dict[str, ProcessState]:
        """Every process by name."""
        return {
            entry["name"]: ProcessState(entry["statename"], entry["pid"] or None)
            for entry in cast(list[dict[str, Any]], self._call("getAllProcessInfo"))
        }

    def begin_to_stop(self, names: Iterable[str]) -> None:
        """Send SIGTERM to these, where they run; supervisor kills who does not go."""
        for name in names:
            try:
                self._call("stopProcess", name, False)
            except Refusal as refusal:
                if refusal.code not in {NOT_RUNNING, UNKNOWN_NAME}:
                    raise

    def stop(self, names: list[str], *, patience_s: float = math.inf, at_most_s: float = math.inf) -> None:
        """Send SIGTERM to these at the same time and return when all are gone; supervisor itself bounds the wait.

        Who is still there after patience_s, is told again; after at_most_s, killed.
        """
        began_s = time.monotonic()
        self.begin_to_stop(names)
        while left := [name for name, process in self.states().items() if name in names and process.pid is not None]:
            waited_s = time.monotonic() - began_s
            if waited_s > min(patience_s, at_most_s):
                for name in left:
                    with contextlib.suppress(Refusal):  # it went just now
                        self._call("signalProcess", name, "KILL" if waited_s > at_most_s else "TERM")
            time.sleep(0.1)

    def follow_config(self) -> None:
        """Start what supervisord.conf names anew and forget what it no longer names, which has to be stopped before."""
        ((added, _, removed),) = cast(list[list[list[str]]], self._call("reloadConfig"))
        for name in removed:
            self._call("removeProcessGroup", name)
        for name in added:
            self._call("addProcessGroup", name)

    def start_again(self, name: str) -> None:
        """Start a process that was stopped; returns before it is ready."""
        self._call("startProcess", name, False)

    def hang_up(self, name: str) -> None:
        """Send SIGHUP to a process."""
        self._call("signalProcess", name, "HUP")

    def shutdown(self) -> None:
        """Stop whatever still runs and supervisord itself."""
        self._call("shutdown")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(Transport):
    """XML-RPC over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: tuple[str, dict[str, str]] | str) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # what close() closes
        return connection
