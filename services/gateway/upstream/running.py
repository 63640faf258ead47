"""Decides when nothing is in progress any more, and how what has to end before its end does; knows no requests."""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager

from prometheus_client import Gauge

from meshkit.errors import MeshError, Reason

log = logging.getLogger(__name__)


class Running:
    """The tasks that ask a worker now. gauge: shows how many. reason why one is cut off: the gateway leaves."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._tasks: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_cut_off = False

    @contextmanager
    def task(self) -> Generator[None]:
        """Around what the current task asks; raises NOT_READY where it is cut off."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._show()
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_cut_off:
                raise
            task.uncancel()
            raise leaving() from None
        finally:
            self._tasks.discard(task)
            self._show()

    async def wait(self, timeout_s: float) -> None:
        """Return once none is left, or the time is over."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            log.warning("%d answers were still running after %.0f s of draining", len(self._tasks), timeout_s)

    def cut_off(self) -> None:
        """End all with NOT_READY, so that their clients read what became of them."""
        self._is_cut_off = True
        for task in self._tasks:
            task.cancel()

    def _show(self) -> None:
        self._gauge.set(len(self._tasks))
        if self._tasks:
            self._idle.clear()
        else:
            self._idle.set()


def leaving() -> MeshError:
    """What clients hear of a gateway that ends."""
    return MeshError(Reason.NOT_READY, "the gateway is shutting down")
