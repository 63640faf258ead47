"""Keeps one Envoy running, and on SIGHUP hands its sockets to a new one that reads the configuration anew.

Envoy calls this a hot restart: the old one serves what it has, for PARENT_SHUTDOWN_S at most, the new one what comes.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from mesh.triton import SHARED_MEMORY

DRAIN_S: Final = 5  # in which the old one asks kept connections to go
PARENT_SHUTDOWN_S: Final = 610  # after which it is gone; more than a gateway gives any request
POLL_S: Final = 0.1
SHUTDOWN_S: Final = 5.0  # how long each gets to end


class EnvoyParent:
    """The Envoys of one mesh; the newest is the last. base_id: file in which Envoy writes a number that is its own."""

    def __init__(self, command: list[str], base_id: Path) -> None:
        self._command = command
        self._base_id = base_id
        self._envoys: list[subprocess.Popen[bytes]] = []
        self._epoch = 0
        self._hang_ups = 0
        self._is_over = False

    def run(self) -> int:
        """Serve until SIGTERM, or until the newest Envoy ends by itself; the exit code."""
        signal.signal(signal.SIGHUP, self._hang_up)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        remove_envoy_memory(self._base_id)  # of a predecessor that was killed
        try:
            self._start("--use-dynamic-base-id", "--base-id-path", str(self._base_id))
            while not self._is_over and self._envoys[-1].poll() is None:
                if self._hang_ups:
                    self._hang_ups = 0
                    self._epoch += 1
                    self._start("--base-id", self._base_id.read_text().strip())
                self._envoys = [envoy for envoy in self._envoys if envoy.poll() is None] or self._envoys[-1:]
                time.sleep(POLL_S)
            return 0 if self._is_over else 1
        finally:
            self._shut_down()

    def _start(self, *identity: str) -> None:
        times = ["--drain-time-s", str(DRAIN_S), "--parent-shutdown-time-s", str(PARENT_SHUTDOWN_S)]
        words = [*self._command, "--restart-epoch", str(self._epoch), *times, *identity]
        self._envoys.append(subprocess.Popen(words))

    def _hang_up(self, *_: object) -> None:
        self._hang_ups += 1

    def _end(self, *_: object) -> None:
        self._is_over = True

    def _shut_down(self) -> None:
        for envoy in self._envoys:
            envoy.terminate()
        deadline_s = time.monotonic() + SHUTDOWN_S
        for envoy in self._envoys:
            try:
                envoy.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                envoy.kill()
        remove_envoy_memory(self._base_id)


def remove_envoy_memory(base_id: Path) -> None:
    """Remove what an Envoy leaves in shared memory."""
    if base_id.exists():
        (SHARED_MEMORY / f"envoy_shared_memory_{base_id.read_text().strip()}0").unlink(missing_ok=True)
        base_id.unlink()


def main() -> None:
    """`python -m mesh.envoy_parent BASE_ID_FILE ENVOY...`"""
    sys.exit(EnvoyParent(sys.argv[2:], Path(sys.argv[1])).run())


if __name__ == "__main__":
    main()
