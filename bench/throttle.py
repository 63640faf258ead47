"""Lets processes pretend to have a part of a processor each, so that several of them fit on one; knows no mesh."""

import os
import signal
import threading
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from typing import Final

import psutil

_ROUND_S: Final = 0.05


class Throttle:
    """Groups of processes that run one after the other, each for its share of every round, and stand still between.

    share: of a processor; all groups together must not want more than one.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self.groups: frozenset[int] = frozenset()
        self._is_over = threading.Event()

    def hold(self, groups: Collection[int]) -> None:
        """Throttle these from now on, by the pids of their leaders, and nobody else."""
        gone, self.groups = self.groups - set(groups), frozenset(groups)
        for group in gone:
            _signal(group, signal.SIGCONT)

    @contextmanager
    def running(self) -> Generator[None]:
        """Throttle while this lasts; afterwards everybody goes on."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()
            self.hold(())

    def _run(self) -> None:
        while not self._is_over.is_set():
            groups, began_s = self.groups, time.monotonic()
            for group in sorted(groups):
                _signal(group, signal.SIGCONT)
                time.sleep(self._share * _ROUND_S)
                if group in self.groups:
                    _signal(group, signal.SIGSTOP)
            time.sleep(max(0.0, began_s + _ROUND_S - time.monotonic()))


def use_cores(pid: int, cores: Collection[int]) -> None:
    """Let all threads of a process and its children run on these."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            for thread in each.threads():
                with suppress(ProcessLookupError):  # it ended
                    os.sched_setaffinity(thread.id, cores)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended
        os.killpg(group, number)
