"""Decides whether an answer may begin, and knows how many are running; knows nothing of what is in them."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.catalog import ServedModel
from services.gateway.metrics import Metrics
from services.gateway.upstream.worker import ChatWorker
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse

log = logging.getLogger(__name__)


class Admission:
    """A ChatWorker in front of another: it counts running answers and lets none begin once draining."""

    def __init__(self, worker: ChatWorker, metrics: Metrics) -> None:
        self._worker = worker
        self._metrics = metrics
        self._num_running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        """Stream the answer; NOT_READY while draining."""
        if self._draining:
            raise MeshError(Reason.NOT_READY, "the gateway is shutting down")
        self._enter()
        try:
            async with aclosing(self._worker.generate(request, timeout_s=timeout_s)) as pieces:
                async for piece in self._observed(request.model, pieces):
                    yield piece
        finally:
            self._leave()

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Return once the model answered; NOT_READY while draining."""
        if self._draining:
            raise MeshError(Reason.NOT_READY, "the gateway is shutting down")
        await self._worker.ping(model, timeout_s=timeout_s)

    async def drain(self, timeout_s: float) -> None:
        """Let no answer begin from now on, and wait until the last one ended or the time is over."""
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            log.warning("%d answers were still running after %.0f s of draining", self._num_running, timeout_s)

    async def _observed(
        self, model: str, pieces: AsyncGenerator[GenerateResponse, None]
    ) -> AsyncGenerator[GenerateResponse, None]:
        call = CURRENT.get()
        call.model = model
        begun_s = time.perf_counter()
        waiting = True
        async for piece in pieces:
            if waiting and piece.token_ids:
                waiting = False
                self._metrics.time_to_first_token.labels(model).observe(time.perf_counter() - begun_s)
            if piece.HasField("usage"):
                if piece.index == 0:
                    call.prompt_tokens = piece.usage.prompt_tokens
                call.completion_tokens = (call.completion_tokens or 0) + piece.usage.completion_tokens
            yield piece

    def _enter(self) -> None:
        self._num_running += 1
        self._metrics.requests_running.set(self._num_running)
        self._idle.clear()

    def _leave(self) -> None:
        self._num_running -= 1
        self._metrics.requests_running.set(self._num_running)
        if self._num_running == 0:
            self._idle.set()
