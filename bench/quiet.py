"""Says how much of the machine others used while something was measured; does not know what is measured."""

import os
import time
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TypeVar

import psutil

T = TypeVar("T")

QUIET_SHARE = 0.06  # of all cores; the kernel and the clock use some always
_LOOK_S = 0.25


def share_of_others(run: Callable[[], T], pids: Iterable[int]) -> tuple[T, float]:
    """Run it; returns its result and the share of all cores, 0 to 1, used meanwhile by others than us and `pids`."""
    processes = [psutil.Process(pid) for pid in (os.getpid(), *pids)]
    began_s = perf_counter()
    machine_before_s, own_before_s = _busy_s(), _own_s(processes)
    result = run()
    others_s = (_busy_s() - machine_before_s) - (_own_s(processes) - own_before_s)
    wall_s = perf_counter() - began_s
    return result, max(0.0, others_s / (wall_s * (psutil.cpu_count() or 1)))


def wait_until_quiet(pids: Iterable[int], *, at_most_s: float) -> None:
    """Return when others use little of the machine, or when that much time has passed."""
    pids = list(pids)
    deadline_s = time.monotonic() + at_most_s
    while time.monotonic() < deadline_s:
        if share_of_others(lambda: time.sleep(_LOOK_S), pids)[1] < QUIET_SHARE:
            return


def _busy_s() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice  # guest is in user already


def _own_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)
