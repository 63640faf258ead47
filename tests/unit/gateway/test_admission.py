"""Who is let through to a worker, and what a refusal tells, whatever else was asked meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import nullcontext

import pytest

from meshkit.errors import MeshError, Reason
from services.gateway.call import begin_call
from services.gateway.catalog import ServedModel
from services.gateway.metrics import Metrics
from services.gateway.upstream.admission import Admission
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

pytestmark = pytest.mark.asyncio(loop_scope="function")


class WorkerThatFails:
    """Fails every generation for that reason; tokenises; scores for ever."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        self.num_pings = 0

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        raise MeshError(self.reason, "no")
        yield  # makes it a generator

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        raise MeshError(self.reason, "no")

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        await asyncio.Event().wait()
        return RerankResponse()

    async def tokenize(self, request: TokenizeRequest, *, timeout_s: float) -> TokenizeResponse:
        return TokenizeResponse()

    async def detokenize(self, request: DetokenizeRequest, *, timeout_s: float) -> DetokenizeResponse:
        return DetokenizeResponse()

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        self.num_pings += 1
        await asyncio.sleep(0.01)
        if self.reason is not Reason.QUEUE_FULL:
            raise MeshError(self.reason, "no")

    def together(self, requests: object) -> nullcontext[None]:
        return nullcontext()

    def check_staying(self) -> None: ...


class Scene:
    """Admission in front of a worker that fails, and calls of one tenant."""

    def __init__(self) -> None:
        self.worker = WorkerThatFails(Reason.QUEUE_FULL)
        self.admission = Admission(self.worker, Metrics())
        self.tenant = ""

    async def fail(self, reason: Reason, text: str = "") -> MeshError:
        """Ask for a generation that the worker fails for that reason."""
        begin_call(None, None, None).tenant = self.tenant
        self.worker.reason = reason
        with pytest.raises(MeshError) as caught:
            async for _ in self.admission.generate(GenerateRequest(model="m", text=text), timeout_s=1):
                pass
        return caught.value

    async def embed(self, timeout_s: float) -> None:
        """Ask for vectors, with so much time."""
        begin_call(None, None, None).timeout = timeout_s
        await self.admission.embed(EmbedRequest(model="m"), timeout_s=1)

    async def rerank(self) -> None:
        """Ask for scores, which never come."""
        begin_call(None, None, None)
        await self.admission.rerank(RerankRequest(model="m"), timeout_s=1)

    async def tokenize(self) -> None:
        """Ask for ids."""
        begin_call(None, None, None)
        await self.admission.tokenize(TokenizeRequest(model="m", text="x"), timeout_s=1)


@pytest.mark.parametrize("reason", [Reason.INVALID_REQUEST, Reason.NOT_READY, Reason.INTERNAL])
async def test_requests_that_had_no_place_make_no_refusal_promise_one_sooner(reason: Reason) -> None:
    quiet, busy = Scene(), Scene()
    for _ in range(50):
        await busy.fail(reason)

    told_s = [(await scene.fail(Reason.QUEUE_FULL, "x")).retry_after_s for scene in (quiet, busy)]

    assert told_s == [pytest.approx(2), pytest.approx(2, rel=0.1)]


async def test_requests_whose_time_was_over_before_they_asked_make_no_refusal_promise_a_place_sooner() -> None:
    scene = Scene()
    running = asyncio.create_task(scene.rerank())
    await asyncio.sleep(0)
    for _ in range(50):
        with pytest.raises(MeshError, match="over before"):
            await scene.embed(timeout_s=1e-9)

    refusal = await scene.fail(Reason.QUEUE_FULL, "x")

    running.cancel()
    assert refusal.retry_after_s == pytest.approx(1, rel=0.1)  # two in progress, a guess of two seconds each


async def test_tokenising_neither_waits_for_a_place_nor_frees_one() -> None:
    scene = Scene()
    first = await scene.fail(Reason.QUEUE_FULL, "x")

    for _ in range(50):
        await scene.tokenize()
    second = await scene.fail(Reason.QUEUE_FULL, "y")

    assert first.retry_after_s == pytest.approx(2)
    assert second.retry_after_s is not None and second.retry_after_s >= 2


async def test_a_tenant_with_a_long_name_is_told_when_to_come_again() -> None:
    scene = Scene()
    scene.tenant = "某某科技有限公司北京研发中心智能语音平台一组" * 5

    error = await scene.fail(Reason.QUEUE_FULL)

    assert error.retry_after_s == pytest.approx(2)


@pytest.mark.parametrize("reason", [Reason.QUEUE_FULL, Reason.NOT_READY], ids=["there", "away"])
async def test_many_probes_at_once_are_one_ping_of_each_model_and_later_ones_another(reason: Reason) -> None:
    scene = Scene()
    scene.worker.reason = reason
    models = [ServedModel(id=name, kind="chat") for name in ("m", "other")]
    probes = [scene.admission.ping(model, timeout_s=1) for model in models * 50]

    outcomes = await asyncio.gather(*probes, return_exceptions=True)
    at_once = scene.worker.num_pings
    await asyncio.sleep(0.3)
    await asyncio.gather(scene.admission.ping(models[0], timeout_s=1), return_exceptions=True)

    assert {isinstance(outcome, MeshError) for outcome in outcomes} == {reason is Reason.NOT_READY}
    assert (at_once, scene.worker.num_pings) == (2, 3)
