"""Starts a mesh of its own for a measurement, and stops it; does not know what is measured."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cli.options import KINDS

ZHINAO = Path(sys.executable).with_name("zhinao")
_FIRST_PORT = 8470


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker. grpc: address of its Triton. metrics: URL of its page. model: served id."""

    grpc: str
    metrics: str
    model: str


@dataclass(frozen=True, slots=True)
class PrivateMesh:
    """A running mesh with one worker of each kind that was asked for. host, port: of its edge."""

    host: str
    port: int
    workers: Mapping[str, Worker]
    state: Path

    @property
    def url(self) -> str:
        """Base URL of its REST API."""
        return f"http://{self.host}:{self.port}"

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Every process of every part, by the part's name."""
        found: dict[str, list[psutil.Process]] = {}
        for part in _parts(self.state):
            process = psutil.Process(part["pid"])
            found[part["name"]] = [process, *process.children(recursive=True)]
        return found

    def pids(self) -> list[int]:
        """Every process of the mesh."""
        return [process.pid for processes in self.processes().values() for process in processes]


@contextmanager
def private_mesh(*options: str, kinds: Sequence[str] = ("chat",)) -> Iterator[PrivateMesh]:
    """A mesh of these kinds with these options of `zhinao up`. Raises CalledProcessError if it does not start.

    From then on SIGTERM ends this process as Ctrl-C does, so that no mesh stays behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    port = _free_port()
    replicas = ",".join(f"{kind}={int(kind in kinds)}" for kind in KINDS)
    with tempfile.TemporaryDirectory(prefix="zhinao-bench-") as name:
        state = Path(name) / "state"
        try:  # a start that is interrupted leaves parts as well
            _zhinao("up", state, "--port", str(port), "--detach", "--replicas", replicas, *options)
            parts = [part for part in _parts(state) if part["model"]]
            workers = {part["kind"]: Worker(part["grpc"], part["metrics"], part["model"]) for part in parts}
            yield PrivateMesh("127.0.0.1", port, workers, state)
        finally:
            _zhinao("down", state)


def _parts(state: Path) -> list[dict[str, Any]]:
    return json.loads(_zhinao("status", state, "--json"))["parts"]


def _zhinao(command: str, state: Path, *options: str) -> str:
    """Run `zhinao`; what it prints is returned, what it complains about is shown."""
    words = [ZHINAO, command, "--state", str(state), *options]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout


def _free_port() -> int:
    """A port that nobody listens on now."""
    for port in range(_FIRST_PORT, _FIRST_PORT + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError(f"no free port between {_FIRST_PORT} and {_FIRST_PORT + 99}")
