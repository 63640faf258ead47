"""Keeps one Envoy running, and on SIGHUP hands its sockets to a new one that reads the configuration anew.

Envoy calls this a hot restart: the old one serves what it has, for PARENT_SHUTDOWN_S at most, the new one what comes.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil

from mesh.triton import SHARED_MEMORY

DRAIN_S: Final = 5  # in which the old one asks kept connections to go
PARENT_SHUTDOWN_S: Final = 610  # after which it is gone; more than a gateway gives any request
POLL_S: Final = 0.1
SHUTDOWN_S: Final = 5.0  # how long each gets to end
FLAGS: Final = slice(96, 104)  # of Envoy's shared memory: whether an Envoy is starting; one that failed never unsets it


class EnvoyParent:
    """The Envoys of one mesh; the newest is the last. base_id: a number that is theirs alone, on this machine."""

    def __init__(self, command: list[str], base_id: int) -> None:
        self._command = command
        self._base_id = base_id
        self._envoys: list[subprocess.Popen[bytes]] = []
        self._epoch = 0  # of the newest: how many came before it
        self._is_hung_up = False
        self._is_over = False

    def run(self) -> int:
        """Serve until SIGTERM, or until no Envoy takes connections any more; the exit code."""
        signal.signal(signal.SIGHUP, self._hang_up)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        try:
            self._start()
            while not self._is_over and self._is_served():
                if self._is_hung_up and self._has_taken_over():
                    self._is_hung_up = False
                    self._epoch += 1
                    self._start()
                time.sleep(POLL_S)
            return 0 if self._is_over else 1
        finally:
            self._shut_down()

    def _start(self) -> None:
        times = ["--drain-time-s", str(DRAIN_S), "--parent-shutdown-time-s", str(PARENT_SHUTDOWN_S)]
        identity = ["--restart-epoch", str(self._epoch), "--base-id", str(self._base_id)]
        self._envoys.append(subprocess.Popen([*self._command, *identity, *times]))

    def _is_served(self) -> bool:
        """Whether the newest runs, or the one before it goes on because the newest ended before it took over."""
        *before, newest = self._envoys
        before = [envoy for envoy in before if envoy.poll() is None]
        if newest.poll() is None:
            self._envoys = [*before, newest]
        elif before and _listens(before[-1]):
            self._envoys = before
            self._epoch -= 1
            _forget_start(self._base_id)
            sys.stderr.write("the new Envoy ended before it took over; the one before it goes on\n")
        else:
            return False
        return True

    def _has_taken_over(self) -> bool:
        """Whether the newest has the sockets, and so may be asked to hand them over."""
        *before, newest = self._envoys
        return _listens(newest) and not any(map(_listens, before))

    def _hang_up(self, *_: object) -> None:
        self._is_hung_up = True

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


def _listens(envoy: subprocess.Popen[bytes]) -> bool:
    try:
        connections = psutil.Process(envoy.pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(connection.status == psutil.CONN_LISTEN for connection in connections)


def envoy_memory(base_id: int) -> Path:
    """What Envoys of that number share, and do not remove themselves."""
    return SHARED_MEMORY / f"envoy_shared_memory_{base_id}0"


def remove_envoy_memory(base_id: int) -> None:
    """Remove what an Envoy leaves in shared memory."""
    envoy_memory(base_id).unlink(missing_ok=True)


def _forget_start(base_id: int) -> None:
    with envoy_memory(base_id).open("r+b") as memory:
        memory.seek(FLAGS.start)
        memory.write(bytes(FLAGS.stop - FLAGS.start))


def main() -> None:
    """`python -m mesh.envoy_parent BASE_ID ENVOY...`"""
    sys.exit(EnvoyParent(sys.argv[2:], int(sys.argv[1])).run())


if __name__ == "__main__":
    main()
