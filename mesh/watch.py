"""Supervisor's event listener: asks workers, tells Envoy who serves, counts restarts; watchdog decides what to do."""

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast

import psutil

from mesh import envoy
from mesh.files import write_atomically
from mesh.layout import THREADS, route_of
from mesh.plan import Part, Plan, load_plan
from mesh.probe import ping_worker
from mesh.state import MARKER, StateFolder
from mesh.supervisord import Supervisor
from mesh.watchdog import SILENT_TO_KILL_S, Watchdog

CHECK_EVERY_S: Final = 0.5
STARTS: Final = "PROCESS_STATE_STARTING"
ENDS: Final = ("PROCESS_STATE_STOPPING", "PROCESS_STATE_EXITED", "PROCESS_STATE_BACKOFF", "PROCESS_STATE_FATAL")


class Watch:
    """The world of one mesh's watchdog, and the thread that owns it; other threads only leave work in the inbox."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._supervisor = Supervisor(state)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._plan_version: int | None = None
        self._plan: Plan | None = None
        self._watchdog = Watchdog(self, restarts=Counter(state.read_restarts()))  # a watchdog's that crashed
        self._told: dict[str, set[str]] = {}  # what Envoy knows

    def run(self) -> None:
        """Check again and again; never returns."""
        self._reload()
        self._watchdog.serving = self._told = self._read_endpoints()
        due_s = time.monotonic()
        while True:
            try:
                self._inbox.get(timeout=max(0.0, due_s - time.monotonic()))()
            except queue.Empty:
                self._reload()
                self._watchdog.check(time.monotonic())
                self._publish()
                due_s = time.monotonic() + CHECK_EVERY_S

    def post(self, event: str, fields: Mapping[str, str]) -> None:
        """An event of supervisor's; on any thread."""
        if event == STARTS:
            self._inbox.put(lambda: self._note_start(fields["processname"], fields["from_state"]))
        elif event in ENDS:
            self._inbox.put(lambda: self._note_end(fields["processname"]))

    def ping(self, part: Part, asked_s: float) -> None:
        """See World."""

        def ask() -> None:
            num_threads = int(part.environment[THREADS])  # another one after the model was scaled
            health = ping_worker(str(part.grpc), part.kind, SILENT_TO_KILL_S, num_threads=num_threads)
            self._inbox.put(lambda: self._watchdog.note_answer(part.name, asked_s, health, time.monotonic()))

        threading.Thread(target=ask, daemon=True).start()

    def cpu_s(self, part: Part) -> float:
        """See World; 0 for a part that is gone."""
        pid = self._pid(part)
        try:
            process = psutil.Process(pid) if pid else None
            processes = [process, *process.children(recursive=True)] if process else []
            return sum(sum(each.cpu_times()[:2]) for each in processes)
        except psutil.Error:
            return 0.0

    def kill(self, part: Part, reason: str) -> None:
        """See World."""
        pid = self._pid(part)
        sys.stderr.write(f"{part.name} (process {pid}) {reason}: killing it\n")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it went just now
                os.killpg(pid, signal.SIGKILL)  # supervisor made it the leader of its own group

    def _pid(self, part: Part) -> int | None:
        process = self._supervisor.states().get(part.name)
        return process.pid if process else None

    def _note_start(self, name: str, from_state: str) -> None:
        self._watchdog.note_start(name, from_state)
        write_atomically(self._state.restarts, json.dumps(self._watchdog.restarts).encode())

    def _note_end(self, name: str) -> None:
        self._watchdog.note_end(name)
        self._watchdog.check(time.monotonic())
        self._publish()

    def _reload(self) -> None:
        """Read the plan if `up` or `scale` wrote it anew."""
        version = self._state.plan.stat().st_mtime_ns
        if version != self._plan_version:
            self._plan_version, self._plan = version, load_plan(self._state.plan)
            self._watchdog.watch(cast(Plan, self._plan).workers)

    def _publish(self) -> None:
        plan = cast(Plan, self._plan)
        for model in plan.options.models:
            names = self._watchdog.serving.get(model.id, set())
            if names != self._told.get(model.id):
                ports = [part.grpc_port for part in plan.replicas(model.id) if part.name in names]
                envoy.write_endpoints(route_of(model, self._state), ports)
                self._told[model.id] = names

    def _read_endpoints(self) -> dict[str, set[str]]:
        """Who served when this process began: the first one of a mesh finds nobody, one after a crash its own work."""
        plan = cast(Plan, self._plan)
        ports = {model.id: envoy.read_endpoints(route_of(model, self._state)) for model in plan.options.models}
        return {
            model: {part.name for part in plan.replicas(model) if part.grpc_port in known}
            for model, known in ports.items()
        }


def fields(line: str) -> dict[str, str]:
    """Read supervisor's `key:value key:value` form."""
    return dict(pair.split(":", 1) for pair in line.split())


def _listen(watch: Watch) -> None:
    """Serve supervisor's listener protocol on standard input and output until supervisord ends."""
    while True:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:  # supervisord is gone, whatever ended it
            os._exit(0)
        header = fields(line)
        watch.post(header["eventname"], fields(sys.stdin.read(int(header["len"]))))
        sys.stdout.write("RESULT 2\nOK")
        sys.stdout.flush()


def main() -> None:
    """Watch the mesh whose folder the environment names."""
    watch = Watch(StateFolder(Path(os.environ[MARKER])))
    threading.Thread(target=_listen, args=(watch,), daemon=True).start()
    try:
        watch.run()
    except Exception:  # boundary: supervisor starts it again, and threads that wait for answers are not waited for
        logging.exception("the watchdog failed")
        os._exit(1)


if __name__ == "__main__":
    main()
