"""Decides how often the models' engines are pinged for all who ask whether they are there: probes need no key."""

import asyncio
import time
from typing import Final

from services.gateway.catalog import ServedModel
from services.gateway.upstream.worker import Worker

_SHARED_S: Final = 0.25  # a ping answers for whoever asks within this time


class Pings:
    """At most one ping of each model at a time, whose outcome is shared."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._latest: dict[str, tuple[float, asyncio.Task[None]]] = {}  # by model, with when it was begun

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Return once the model's engine answered, a moment ago or now; raises MeshError."""
        begun_s, ping = self._latest.get(model.id, (0.0, None))
        if ping is None or (ping.done() and time.monotonic() >= begun_s + _SHARED_S):
            ping = asyncio.create_task(self._worker.ping(model, timeout_s=timeout_s))
            ping.add_done_callback(lambda task: task.cancelled() or task.exception())  # who asked may have left
            self._latest[model.id] = (time.monotonic(), ping)
        await asyncio.shield(ping)
