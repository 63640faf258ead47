"""Decides whether an answer may begin and how long it may take, and counts what became of it; knows no text."""

import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, nullcontext
from copy import deepcopy
from hashlib import blake2b
from typing import Final

from meshkit import telemetry
from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT, Call
from services.gateway.catalog import ServedModel
from services.gateway.metrics import Metrics
from services.gateway.upstream.attributes import question_attributes
from services.gateway.upstream.line import Ask, Line
from services.gateway.upstream.pings import Pings
from services.gateway.upstream.running import Running, leaving
from services.gateway.upstream.worker import Worker
from zhinao.chat.v1.chat_pb2 import PRIORITY_BULK, FinishReason, GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

# Failures of a request that had a place in a worker; the others are told at once, however full the worker is.
_AFTER_A_PLACE: Final = {Reason.DEADLINE, Reason.UPSTREAM_LOST, Reason.CLIENT_CANCELLED}

Request = GenerateRequest | EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest


class Admission:
    """A Worker in front of another: it counts running answers and lets none begin once draining.

    A worker's refusal for want of room leaves here with the time after which the client should ask again.
    """

    def __init__(self, worker: Worker, metrics: Metrics) -> None:
        self._worker = worker
        self._pings = Pings(worker)
        self._metrics = metrics
        self._tasks = Running(metrics.requests_running)
        self._leaving = False
        self._draining = False
        self._lines: defaultdict[tuple[str, bool], Line] = defaultdict(Line)  # by model; bulk requests have their own

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        """Stream the answer; NOT_READY while draining."""
        told = _Told(self._metrics, request.model)
        if (call := CURRENT.get()).span.is_recording():
            call.parameters = question_attributes(request)
        with told, self._running(request, timeout_s, telemetry.CHAT) as limit_s:
            async with aclosing(self._worker.generate(request, timeout_s=limit_s)) as pieces:
                async for piece in pieces:
                    told.note(piece)
                    yield piece

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        """The vectors; NOT_READY while draining."""
        with self._running(request, timeout_s, telemetry.EMBEDDINGS) as limit_s:
            response = await self._worker.embed(request, timeout_s=limit_s)
        _note_usage(response)
        return response

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        """The scores; NOT_READY while draining."""
        with self._running(request, timeout_s, telemetry.RERANK) as limit_s:
            response = await self._worker.rerank(request, timeout_s=limit_s)
        _note_usage(response)
        return response

    async def tokenize(self, request: TokenizeRequest, *, timeout_s: float) -> TokenizeResponse:
        """The ids; NOT_READY while draining."""
        with self._running(request, timeout_s) as limit_s:
            return await self._worker.tokenize(request, timeout_s=limit_s)

    async def detokenize(self, request: DetokenizeRequest, *, timeout_s: float) -> DetokenizeResponse:
        """The text; NOT_READY while draining."""
        with self._running(request, timeout_s) as limit_s:
            return await self._worker.detokenize(request, timeout_s=limit_s)

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Return once the model answered; NOT_READY while draining."""
        self.check_staying()
        await self._pings.ping(model, timeout_s=timeout_s)

    def together(
        self, requests: Sequence[GenerateRequest] | Sequence[RerankRequest], /
    ) -> AbstractAsyncContextManager[None]:
        """Each is let through alone; see Worker.together."""
        return self._worker.together(requests)

    def leave(self) -> None:
        """Fail readiness from now on, while requests are still taken."""
        self._leaving = True

    def check_staying(self) -> None:
        """Raise NOT_READY once it is leaving."""
        if self._leaving:
            raise leaving()

    async def drain(self, timeout_s: float) -> None:
        """Let no answer begin from now on, and wait until the last one ended or the time is over."""
        self._leaving = self._draining = True
        await self._tasks.wait(timeout_s)

    def cut_off(self) -> None:
        """End what is still running with NOT_READY."""
        self._tasks.cut_off()

    def _check_open(self) -> None:
        if self._draining:
            raise leaving()

    @contextmanager
    def _running(self, request: Request, timeout_s: float, operation: str | None = None) -> Generator[float]:
        """Around a question to a worker; gives the time for it. operation: None takes no place and waits for none."""
        self._check_open()
        call = CURRENT.get()
        call.model, call.operation = request.model, operation
        limit_s = _limit_s(timeout_s)  # who has none left takes no part in the line
        with nullcontext() if operation is None else self._in_line(request, call):
            call.asked_s = call.asked_s or time.perf_counter()
            try:
                with self._tasks.task():
                    yield limit_s
            finally:
                call.answered_s = call.answered_s or time.perf_counter()

    @contextmanager
    def _in_line(self, request: Request, call: Call) -> Generator[None]:
        line = self._lines[request.model, _is_bulk(request)]
        wait_s = line.wait_s(lambda: _ask(request, call), time.perf_counter())
        if wait_s:
            message = f"the model {request.model!r} is busy, and others have been waiting for it longer"
            raise MeshError(Reason.QUEUE_FULL, message, retry_after_s=wait_s)
        line.rate.begin(time.perf_counter())
        had_place = True
        try:
            yield
        except MeshError as error:
            had_place = error.reason in _AFTER_A_PLACE
            if error.reason is Reason.QUEUE_FULL:
                has_waited = wait_s is not None
                error.retry_after_s = line.refuse(_ask(request, call), time.perf_counter(), has_waited=has_waited)
            raise
        finally:
            line.rate.end(time.perf_counter(), served=had_place)


class _Told:
    """Around one stream, and around what names its failure: what was told of it, and how much of that for nothing."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._call = CURRENT.get()
        self._begun_s = time.perf_counter()
        self._num_tokens = 0

    def note(self, piece: GenerateResponse) -> None:
        now_s = time.perf_counter()
        if self._num_tokens == 0 and piece.token_ids:
            self._metrics.time_to_first_token.labels(self._model).observe(now_s - self._begun_s)
            self._call.first_token_s = self._call.first_token_s or now_s
        self._num_tokens += len(piece.token_ids)
        if piece.HasField("usage"):
            _add_usage(self._call, piece)
        self._call.answered_s = now_s

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or self._num_tokens == 0:
            return
        reason = error.reason if isinstance(error, MeshError) else Reason.CLIENT_CANCELLED
        self._metrics.wasted_tokens.labels(reason).inc(self._num_tokens)


def _add_usage(call: Call, end: GenerateResponse) -> None:
    call.prompt_tokens = (call.prompt_tokens or 0) + end.usage.prompt_tokens
    call.completion_tokens = (call.completion_tokens or 0) + end.usage.completion_tokens
    call.cached_tokens = (call.cached_tokens or 0) + end.usage.cached_tokens
    call.reasoning_tokens = (call.reasoning_tokens or 0) + end.usage.reasoning_tokens
    call.finish_reasons.append(FinishReason.Name(end.finish_reason).removeprefix("FINISH_REASON_").lower())


def _limit_s(timeout_s: float) -> float:
    """The shorter of what the gateway grants and what is left of the time that the client gave."""
    left_s = CURRENT.get().time_left_s()
    return timeout_s if left_s is None else min(timeout_s, left_s)


def _is_bulk(request: Request) -> bool:
    return isinstance(request, GenerateRequest) and request.priority == PRIORITY_BULK


def _ask(request: Request, call: Call) -> Ask:
    """The same whenever this client sends this request again, whatever was added to it on the way."""
    same = deepcopy(request)
    same.ClearField("request_id")
    if isinstance(same, GenerateRequest):
        same.ClearField("timeout_s")
        same.ClearField("generated_token_ids")
        same.sampling.ClearField("seed")  # drawn anew where the client gave none
    return Ask(call.tenant, blake2b(same.SerializeToString(deterministic=True), digest_size=16).digest())


def _note_usage(response: EmbedResponse | RerankResponse) -> None:
    call = CURRENT.get()  # one call may ask several times
    call.prompt_tokens = (call.prompt_tokens or 0) + response.usage.prompt_tokens
