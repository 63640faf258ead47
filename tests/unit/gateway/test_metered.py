"""What a key pays for an answer of which no count came."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from meshkit.errors import MeshError, Reason
from services.gateway.call import begin_call
from services.gateway.tenancy.keys import Grant, Key, Limits
from services.gateway.tenancy.meter import Receipt
from services.gateway.upstream.metered import MeteredWorker
from tests.fakes.triton import piece
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedInput, EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse

pytestmark = pytest.mark.asyncio(loop_scope="function")

TEXT = "x" * 100
GENERATE = GenerateRequest(model="m", text=TEXT)
EMBED = EmbedRequest(model="m", inputs=[EmbedInput(text=TEXT)])
RERANK = RerankRequest(model="m", query="q", documents=[TEXT])


class Scene:
    """A MeteredWorker in front of one that gives a piece or none and then fails, or says nothing more."""

    def __init__(self, *pieces: GenerateResponse, error: MeshError | None = None) -> None:
        self.receipt = Receipt(0)
        self.asked = asyncio.Event()
        self.metered = MeteredWorker(self, self, assumed_answer_tokens=10)
        self._pieces, self._error = pieces, error
        key = Key("k", "a", "t", Limits(), datetime.now(UTC))
        begin_call(None, None, None).grant = Grant(key, 0)

    @asynccontextmanager
    async def reserve(self, *_: object) -> AsyncGenerator[Receipt]:
        yield self.receipt

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        for each in self._pieces:
            yield each
        await self._end()

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        await self._end()
        return EmbedResponse()

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        await self._end()
        return RerankResponse()

    async def _end(self) -> None:
        self.asked.set()
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()

    def ask(self, request: GenerateRequest | EmbedRequest | RerankRequest) -> Coroutine[None, None, object]:
        match request:
            case GenerateRequest():
                return self._generate()
            case EmbedRequest():
                return self.metered.embed(request, timeout_s=1)
            case RerankRequest():
                return self.metered.rerank(request, timeout_s=1)

    async def _generate(self) -> None:
        async for _ in self.metered.generate(GENERATE, timeout_s=1):
            pass

    @property
    def paid(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer."""
        return self.receipt.prompt_tokens, self.receipt.completion_tokens


@pytest.mark.parametrize("request_", [GENERATE, EMBED, RERANK])
async def test_who_leaves_before_the_first_token_pays_for_the_bytes_of_the_prompt(
    request_: GenerateRequest | EmbedRequest | RerankRequest,
) -> None:
    scene = Scene()
    asking = asyncio.create_task(scene.ask(request_))
    await scene.asked.wait()

    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking

    assert scene.paid[0] >= len(TEXT) and scene.paid[1] == 0


@pytest.mark.parametrize(
    ("reason", "pays"),
    [(Reason.DEADLINE, True), (Reason.QUEUE_FULL, False), (Reason.UPSTREAM_LOST, False), (Reason.INTERNAL, False)],
)
@pytest.mark.parametrize("request_", [GENERATE, EMBED, RERANK])
async def test_whose_time_is_over_pays_and_who_was_failed_does_not(
    request_: GenerateRequest | EmbedRequest | RerankRequest, reason: Reason, pays: bool
) -> None:
    scene = Scene(error=MeshError(reason, "no"))

    with pytest.raises(MeshError):
        await scene.ask(request_)

    assert (scene.paid[0] >= len(TEXT), scene.paid[0] == 0) == (pays, not pays)


async def test_whose_answer_breaks_off_pays_for_what_came_and_for_the_prompt() -> None:
    scene = Scene(piece("a", 1, 2), error=MeshError(Reason.UPSTREAM_LOST, "no"))

    with pytest.raises(MeshError):
        await scene.ask(GENERATE)

    assert scene.paid[0] >= len(TEXT) and scene.paid[1] == 2
