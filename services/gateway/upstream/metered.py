"""Decides what a question to a worker may cost at most, and reads from the answer what it did cost."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from typing import Final

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.catalog import ServedModel
from services.gateway.tenancy.meter import Meter, Receipt
from services.gateway.upstream.worker import Worker
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

FRAME_TOKENS: Final = 64  # what a template or an instruction of the model's own adds to a text


class MeteredWorker:
    """A Worker in front of another: keys pay for what they ask. Without a key nothing is counted.

    A token stands for at least one byte of UTF-8, and a token id is at least one byte of protobuf, so the size of a
    prompt's message bounds its tokens; the gateway needs no tokenizer. assumed_answer_tokens: what is reserved for an
    answer of which the client did not say how long it may get.
    """

    def __init__(self, worker: Worker, meter: Meter, *, assumed_answer_tokens: int) -> None:
        self._worker = worker
        self._meter = meter
        self._assumed = assumed_answer_tokens
        self._wholes: dict[int, Receipt] = {}  # of calls that ask several questions at once

    @asynccontextmanager
    async def together(self, requests: Sequence[GenerateRequest] | Sequence[RerankRequest]) -> AsyncGenerator[None]:
        """Reserve for all of them before the first is asked; see Worker.together."""
        call = id(CURRENT.get())
        async with self._reserve(requests[0].model, sum(map(self._bound, requests))) as whole:
            self._wholes[call] = whole
            try:
                yield
            except (asyncio.CancelledError, GeneratorExit):
                whole.prompt_tokens += whole.if_left
                raise
            finally:
                del self._wholes[call]

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        """Stream the answer; see Worker.generate."""
        async with self._reserve(request.model, self._bound(request)) as receipt:
            bill = _Bill(receipt)
            with _charged(receipt, _prompt_bound(request)):
                async with aclosing(self._worker.generate(request, timeout_s=timeout_s)) as pieces:
                    async for piece in pieces:
                        bill.note(piece)
                        yield piece

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        """The vectors; see Worker.embed."""
        bound = request.ByteSize() + len(request.inputs) * (len(request.instruction.encode()) + FRAME_TOKENS)
        async with self._reserve(request.model, bound) as receipt:
            with _charged(receipt, bound):
                response = await self._worker.embed(request, timeout_s=timeout_s)
            receipt.prompt_tokens = response.usage.prompt_tokens
        return response

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        """The scores; see Worker.rerank."""
        bound = self._bound(request)
        async with self._reserve(request.model, bound) as receipt:
            with _charged(receipt, bound):
                response = await self._worker.rerank(request, timeout_s=timeout_s)
            receipt.prompt_tokens = response.usage.prompt_tokens
        return response

    def check_staying(self) -> None:
        """Costs nothing; see Worker.check_staying."""
        self._worker.check_staying()

    async def tokenize(self, request: TokenizeRequest, *, timeout_s: float) -> TokenizeResponse:
        """The ids; a request like others, which costs no tokens."""
        async with self._reserve(request.model, 0):
            return await self._worker.tokenize(request, timeout_s=timeout_s)

    async def detokenize(self, request: DetokenizeRequest, *, timeout_s: float) -> DetokenizeResponse:
        """The text; a request like others, which costs no tokens."""
        async with self._reserve(request.model, 0):
            return await self._worker.detokenize(request, timeout_s=timeout_s)

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Costs nothing; see Worker.ping."""
        await self._worker.ping(model, timeout_s=timeout_s)

    def _reserve(self, model: str, tokens: int) -> AbstractAsyncContextManager[Receipt]:
        call = CURRENT.get()
        if call.grant is None:
            return nullcontext(Receipt(0))
        if (whole := self._wholes.get(id(call))) is not None:
            return _part_of(whole)
        return self._meter.reserve(call, call.grant, model, tokens)

    def _bound(self, request: GenerateRequest | RerankRequest) -> int:
        if isinstance(request, RerankRequest):
            return request.ByteSize() + len(request.documents) * (len(request.query.encode()) + 2 * FRAME_TOKENS)
        return _generate_bound(request, self._assumed)


class _Bill:
    """Adds up a stream; an answer that never ends costs what was seen of it."""

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt
        self._answers: dict[int, int] = {}  # tokens by index

    def note(self, piece: GenerateResponse) -> None:
        self._answers[piece.index] = self._answers.get(piece.index, 0) + len(piece.token_ids)
        if piece.HasField("usage"):
            self._answers[piece.index] = piece.usage.completion_tokens
            if piece.index == 0:
                self._receipt.prompt_tokens = piece.usage.prompt_tokens
        self._receipt.completion_tokens = sum(self._answers.values())


@contextmanager
def _charged(receipt: Receipt, prompt_bound: int) -> Generator[None]:
    """Who leaves, whose time is over or whose answer breaks off pays for a prompt of which no count came."""
    try:
        yield
    except MeshError as error:
        if error.reason is Reason.DEADLINE or receipt.completion_tokens:
            receipt.prompt_tokens = receipt.prompt_tokens or prompt_bound
        raise
    except (asyncio.CancelledError, GeneratorExit):
        receipt.prompt_tokens = receipt.prompt_tokens or prompt_bound
        raise


@asynccontextmanager
async def _part_of(whole: Receipt) -> AsyncGenerator[Receipt]:
    """Around one of several questions. One that ends before its first token may have been failed by another."""
    part = Receipt(0)
    try:
        yield part
    except (asyncio.CancelledError, GeneratorExit):
        if not part.completion_tokens:
            whole.if_left, part.prompt_tokens = whole.if_left + part.prompt_tokens, 0
        raise
    finally:
        whole.prompt_tokens += part.prompt_tokens
        whole.completion_tokens += part.completion_tokens


def _prompt_bound(request: GenerateRequest) -> int:
    return request.ByteSize() + FRAME_TOKENS


def _generate_bound(request: GenerateRequest, assumed_answer_tokens: int) -> int:
    answer = request.stop.max_tokens if request.stop.HasField("max_tokens") else assumed_answer_tokens
    return _prompt_bound(request) + answer * (request.n if request.HasField("n") else 1)
