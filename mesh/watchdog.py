"""Supervisor's event listener: counts restarts, and kills a worker that lives but no longer serves.

Triton does not restart a dead Python stub and still calls itself ready, so only a real ping tells. What is killed,
supervisor starts again.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesh.files import write_atomically
from mesh.plan import Part, load_plan
from mesh.probe import Health, ping_worker
from mesh.state import MARKER, StateFolder
from mesh.supervisord import Supervisor

FAILURES_TO_KILL: Final = 3
PING_TIMEOUT_S: Final = 30.0  # a busy engine answers between two steps, and a step of a big model on a CPU is long


@dataclass(slots=True)
class Watchdog:
    """What it remembers of every worker; the world is passed in."""

    workers: tuple[Part, ...]
    ping: Callable[[Part], Health]
    kill: Callable[[Part], None]
    restarts: Counter[str] = field(default_factory=Counter[str])
    ready: set[str] = field(default_factory=set[str])
    failures: Counter[str] = field(default_factory=Counter[str])

    def note_start(self, name: str, from_state: str) -> None:
        """Count a start that was not the first, and expect nothing of the part until it was ready again."""
        self.ready.discard(name)
        self.failures.pop(name, None)
        if from_state != "STOPPED":
            self.restarts[name] += 1

    def check(self) -> None:
        """Ping every worker once; kill the one that fails several times in a row.

        Triton listens only when its model is loaded: silence is no failure until the worker was ready once.
        """
        for part in self.workers:
            health = self.ping(part)
            if health is Health.READY:
                self.ready.add(part.name)
                self.failures.pop(part.name, None)
            elif health is Health.NOT_READY or part.name in self.ready:
                self.failures[part.name] += 1
                if self.failures[part.name] >= FAILURES_TO_KILL:
                    self.ready.discard(part.name)
                    self.kill(part)


def fields(line: str) -> dict[str, str]:
    """Read supervisor's `key:value key:value` form."""
    return dict(pair.split(":", 1) for pair in line.split())


def main() -> None:
    """Serve supervisor's listener protocol on standard input and output until supervisord ends."""
    state = StateFolder(Path(os.environ[MARKER]))
    plan = load_plan(state.plan)
    if plan is None:
        sys.exit(f"no plan in {state.path}")
    supervisor = Supervisor(state)

    def kill(part: Part) -> None:
        pid = supervisor.states()[part.name].pid
        sys.stderr.write(f"{part.name} (process {pid}) lives but failed {FAILURES_TO_KILL} pings: killing it\n")
        if pid is not None:
            os.killpg(pid, signal.SIGKILL)  # supervisor made it the leader of its own group

    watchdog = Watchdog(plan.workers, lambda part: ping_worker(str(part.grpc), part.kind, PING_TIMEOUT_S), kill)
    while True:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:  # supervisord is gone, whatever ended it
            return
        header = fields(line)
        event = sys.stdin.read(int(header["len"]))
        if header["eventname"] == "PROCESS_STATE_STARTING":
            event_fields = fields(event)
            watchdog.note_start(event_fields["processname"], event_fields["from_state"])
            write_atomically(state.restarts, json.dumps(watchdog.restarts).encode())
        else:
            watchdog.check()
        sys.stdout.write("RESULT 2\nOK")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
