"""The way to Triton itself: what it makes of a mesh that is not there yet, or no longer."""

import pytest

from meshkit.errors import MeshError, Reason
from meshkit.wire import AFFINITY_HEADER
from services.gateway.call import begin_call
from services.gateway.catalog import ServedModel
from services.gateway.metrics import Metrics
from services.gateway.upstream.resume import ResumingWorker
from services.gateway.upstream.triton import TritonWorker, open_channel
from services.gateway.upstream.worker import Worker
from tests.fakes.triton import Compute, FakeTriton, Hold, Step, Vanish, last, piece
from zhinao.chat.v1.chat_pb2 import GenerateRequest

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = ServedModel(id="zhinao-chat", kind="chat")


async def generate(worker: Worker, timeout_s: float = 30) -> list[str]:
    request = GenerateRequest(model=MODEL.id)
    return [piece.text async for piece in worker.generate(request, timeout_s=timeout_s)]


async def test_a_worker_that_nobody_reaches_is_not_ready() -> None:
    async with FakeTriton.running() as triton:
        target = triton.target

    async with open_channel(target) as channel:
        with pytest.raises(MeshError) as caught:
            await generate(TritonWorker(channel))

    assert caught.value.reason is Reason.NOT_READY


async def test_a_worker_that_dies_in_its_first_answer_is_lost() -> None:
    async with FakeTriton.running() as triton, open_channel(triton.target) as channel:
        triton.script = [piece("a"), Hold()]
        answer = TritonWorker(channel).generate(GenerateRequest(model=MODEL.id), timeout_s=30)
        await anext(answer)
        await triton.stop()

        with pytest.raises(MeshError) as caught:
            await anext(answer)

    assert caught.value.reason is Reason.UPSTREAM_LOST


async def test_a_call_ends_at_its_deadline() -> None:
    async with FakeTriton.running() as triton, open_channel(triton.target) as channel:
        triton.script = [Hold()]

        with pytest.raises(MeshError) as caught:
            await generate(TritonWorker(channel), timeout_s=0.05)

    assert caught.value.reason is Reason.DEADLINE


async def test_an_answer_that_nobody_finishes_reading_is_cancelled() -> None:
    async with FakeTriton.running() as triton, open_channel(triton.target) as channel:
        triton.script = [piece("a"), Hold()]
        answer = TritonWorker(channel).generate(GenerateRequest(model=MODEL.id), timeout_s=30)
        await anext(answer)

        await answer.aclose()

        await triton.cancelled.wait()


async def test_only_the_first_worker_is_chosen_by_how_the_prompt_begins() -> None:
    scripts: list[tuple[Step, ...]] = [(piece("a"), Vanish()), (last("b"),)]
    async with FakeTriton.running() as triton, open_channel(triton.target) as channel:
        triton.script = [Compute(lambda _: scripts.pop(0))]
        begin_call(None, None, None)

        assert await generate(ResumingWorker(TritonWorker(channel), Metrics())) == ["a", "b"]

    assert [AFFINITY_HEADER in each.metadata for each in triton.received] == [True, False]
