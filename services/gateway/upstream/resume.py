"""Decides what becomes of a request whose worker was lost: it is asked again, an answer where it broke off."""

import asyncio
import logging
import random
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final, TypeVar

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.catalog import ServedModel
from services.gateway.metrics import Metrics
from services.gateway.upstream.retry_budget import RetryBudget
from services.gateway.upstream.worker import Worker
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_UNSPECIFIED, GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

# Before each further attempt, in seconds: other workers are there at once; the only one takes some to come back.
PAUSES_S: Final = (0.02, 0.2, 0.5, 1.0, 2.0, 3.0)
_PASSING: Final = {Reason.UPSTREAM_LOST, Reason.NOT_READY, Reason.QUEUE_FULL}  # what may follow a loss


class ResumingWorker:
    """A Worker in front of another: what is lost with one of the mesh's workers is asked again of the others.

    An answer that had begun goes on behind the tokens that were told, so that its reader sees one stream. pause: waits
    so many seconds.
    """

    def __init__(
        self, worker: Worker, metrics: Metrics, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._worker = worker
        self._metrics = metrics
        self._pause = pause
        self._budgets: defaultdict[str, RetryBudget] = defaultdict(RetryBudget)  # by model

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        """Stream the answers; see Worker.generate."""
        if not request.sampling.HasField("seed"):
            request.sampling.seed = secrets.randbits(63)
        attempts, answers = self._attempts(request.model, timeout_s), _Answers(request)
        while (question := answers.question()) is not None:
            try:
                async with aclosing(self._worker.generate(question, timeout_s=attempts.left_s())) as pieces:
                    async for piece in pieces:
                        yield answers.note(piece)
            except MeshError as error:
                if answers.question() is None:
                    return  # only the frame that says so was lost
                await attempts.wait(error)
                CURRENT.get().was_lost = True
                log.warning("request %s goes on after %d tokens", request.request_id, answers.num_told)

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        """The vectors; see Worker.embed."""
        return await self._ask(request.model, timeout_s, lambda left_s: self._worker.embed(request, timeout_s=left_s))

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        """The scores; see Worker.rerank."""
        return await self._ask(request.model, timeout_s, lambda left_s: self._worker.rerank(request, timeout_s=left_s))

    async def tokenize(self, request: TokenizeRequest, *, timeout_s: float) -> TokenizeResponse:
        """The ids; see Worker.tokenize."""
        return await self._ask(
            request.model, timeout_s, lambda left_s: self._worker.tokenize(request, timeout_s=left_s)
        )

    async def detokenize(self, request: DetokenizeRequest, *, timeout_s: float) -> DetokenizeResponse:
        """The text; see Worker.detokenize."""
        return await self._ask(
            request.model, timeout_s, lambda left_s: self._worker.detokenize(request, timeout_s=left_s)
        )

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Asked once; see Worker.ping."""
        await self._worker.ping(model, timeout_s=timeout_s)

    def together(
        self, requests: Sequence[GenerateRequest] | Sequence[RerankRequest]
    ) -> AbstractAsyncContextManager[None]:
        """See Worker.together."""
        return self._worker.together(requests)

    def check_staying(self) -> None:
        """See Worker.check_staying."""
        self._worker.check_staying()

    async def _ask(self, model: str, timeout_s: float, ask: Callable[[float], Awaitable[Answer]]) -> Answer:
        attempts = self._attempts(model, timeout_s)
        while True:
            try:
                return await ask(attempts.left_s())
            except MeshError as error:
                await attempts.wait(error)

    def _attempts(self, model: str, timeout_s: float) -> "_Attempts":
        budget = self._budgets[model]
        budget.earn()

        def take(reason: Reason) -> bool:
            may = budget.spend()
            self._metrics.retries.labels(model, reason).inc(may)
            return may

        return _Attempts(time.monotonic() + timeout_s, take, self._pause)


class _Answers:
    """The answers to one request, and what was told of each.

    Several that were broken off go on one after the other, each as the single answer to a request with its own seed.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._told: list[list[int]] = [[] for _ in range(request.n if request.HasField("n") else 1)]
        self._unfinished = list(range(len(self._told)))
        self._only: int | None = None  # the answer that the last question was about, if about one of several

    @property
    def num_told(self) -> int:
        """Tokens of all answers."""
        return sum(map(len, self._told))

    def question(self) -> GenerateRequest | None:
        """What to ask a worker now; None if all answers are complete."""
        if not self._unfinished:
            return None
        question = GenerateRequest()
        question.CopyFrom(self._request)
        has_begun = self.num_told or len(self._unfinished) < len(self._told)
        self._only = self._unfinished[0] if len(self._told) > 1 and has_begun else None
        if self._only is not None:
            question.n = 1
            question.sampling.seed = (self._request.sampling.seed + self._only) % 2**64
        question.generated_token_ids.extend(self._told[self._only or 0])
        return question

    def note(self, piece: GenerateResponse) -> GenerateResponse:
        """Take what the worker told; returns it as a part of the answers to the whole request."""
        if self._only:
            piece.index = self._only
            if piece.HasField("usage"):  # the prompt's counts with answer 0
                piece.usage.prompt_tokens = piece.usage.cached_tokens = 0
        self._told[piece.index].extend(piece.token_ids)
        if piece.finish_reason != FINISH_REASON_UNSPECIFIED:
            self._unfinished.remove(piece.index)
        return piece


class _Attempts:
    """When one request is asked again. end_s: when its time is over, on the monotonic clock. take: from a budget."""

    def __init__(self, end_s: float, take: Callable[[Reason], bool], pause: Callable[[float], Awaitable[None]]) -> None:
        self._end_s = end_s
        self._take = take
        self._pause = pause
        self._pauses_s: Iterator[float] = iter(PAUSES_S)
        self._was_lost = False

    def left_s(self) -> float:
        """What is left of the request's time, in seconds."""
        return max(0.0, self._end_s - time.monotonic())

    async def wait(self, error: MeshError) -> None:
        """Return when it may be asked again; raises the error if it may not: it never began, or nobody is there."""
        self._was_lost = self._was_lost or error.reason is Reason.UPSTREAM_LOST
        pause_s = next(self._pauses_s, None)
        if not self._was_lost or error.reason not in _PASSING or pause_s is None or pause_s > self.left_s():
            raise error
        if not self._take(error.reason):
            log.warning("too much is asked again already: a request to a lost worker fails")
            raise error
        await self._pause(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
