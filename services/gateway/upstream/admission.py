"""Decides whether an answer may begin, and knows how many are running; knows nothing of what is in them."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.catalog import ServedModel
from services.gateway.metrics import Metrics
from services.gateway.upstream.worker import Worker
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse

log = logging.getLogger(__name__)


class Admission:
    """A Worker in front of another: it counts running answers and lets none begin once draining."""

    def __init__(self, worker: Worker, metrics: Metrics) -> None:
        self._worker = worker
        self._metrics = metrics
        self._num_running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        """Stream the answer; NOT_READY while draining."""
        with self._running(request.model):
            async with aclosing(self._worker.generate(request, timeout_s=timeout_s)) as pieces:
                async for piece in self._observed(request.model, pieces):
                    yield piece

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        """The vectors; NOT_READY while draining."""
        with self._running(request.model):
            response = await self._worker.embed(request, timeout_s=timeout_s)
        _note_usage(response)
        return response

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        """The scores; NOT_READY while draining."""
        with self._running(request.model):
            response = await self._worker.rerank(request, timeout_s=timeout_s)
        _note_usage(response)
        return response

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Return once the model answered; NOT_READY while draining."""
        self._check_open()
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

    def _check_open(self) -> None:
        if self._draining:
            raise MeshError(Reason.NOT_READY, "the gateway is shutting down")

    @contextmanager
    def _running(self, model: str) -> Generator[None]:
        self._check_open()
        CURRENT.get().model = model
        self._count(+1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._num_running += change
        self._metrics.requests_running.set(self._num_running)
        if self._num_running:
            self._idle.clear()
        else:
            self._idle.set()


def _note_usage(response: EmbedResponse | RerankResponse) -> None:
    call = CURRENT.get()  # one call may ask several times
    call.prompt_tokens = (call.prompt_tokens or 0) + response.usage.prompt_tokens
