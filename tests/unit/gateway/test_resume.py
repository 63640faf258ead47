"""What a client sees of workers that are lost: one answer, asked for again behind the tokens that were told."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import nullcontext

import pytest
from prometheus_client import generate_latest

from meshkit.errors import MeshError, Reason
from services.gateway.call import begin_call
from services.gateway.catalog import ServedModel
from services.gateway.metrics import Metrics
from services.gateway.upstream.resume import PAUSES_S, ResumingWorker
from services.gateway.upstream.retry_budget import AT_ONCE, SHARE
from tests.fakes.triton import last, piece, vectors
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_STOP, GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

LOST, NOT_READY, FULL = (
    MeshError(reason, "no") for reason in (Reason.UPSTREAM_LOST, Reason.NOT_READY, Reason.QUEUE_FULL)
)
INVALID, INTERNAL = (MeshError(reason, "no") for reason in (Reason.INVALID_REQUEST, Reason.INTERNAL))


def of_answer(index: int, each: GenerateResponse) -> GenerateResponse:
    """The same of another answer."""
    each.index = index
    return each


class Workers:
    """Workers that answer each call by the next script: what is no error is told."""

    def __init__(self, *scripts: Sequence[GenerateResponse | EmbedResponse | MeshError]) -> None:
        self.scripts = list(scripts)
        self.generations: list[GenerateRequest] = []

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        assert timeout_s <= 30
        copy = GenerateRequest()
        copy.CopyFrom(request)
        self.generations.append(copy)
        for step in self.scripts.pop(0):
            if isinstance(step, MeshError):
                raise step
            assert isinstance(step, GenerateResponse)
            yield step

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        (step,) = self.scripts.pop(0)
        if isinstance(step, MeshError):
            raise step
        assert isinstance(step, EmbedResponse)
        return step

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        raise LOST

    async def tokenize(self, request: TokenizeRequest, *, timeout_s: float) -> TokenizeResponse:
        raise LOST

    async def detokenize(self, request: DetokenizeRequest, *, timeout_s: float) -> DetokenizeResponse:
        raise LOST

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        raise LOST

    def together(self, requests: object) -> nullcontext[None]:
        return nullcontext()

    def check_staying(self) -> None:
        raise NOT_READY


@pytest.fixture(autouse=True)
def _call() -> None:
    begin_call(None, None, None)


class Scene:
    """A ResumingWorker in front of scripted workers, whose pauses take no time."""

    def __init__(self, *scripts: Sequence[GenerateResponse | EmbedResponse | MeshError]) -> None:
        self.pauses: list[float] = []
        self.workers = Workers(*scripts)
        self.metrics = Metrics()
        self.worker = ResumingWorker(self.workers, self.metrics, pause=self.pause)

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def text(self, request: GenerateRequest | None = None, *, timeout_s: float = 30) -> str:
        pieces = self.worker.generate(request or GenerateRequest(model="m"), timeout_s=timeout_s)
        return "".join([each.text async for each in pieces])


async def test_a_stream_goes_on_behind_the_tokens_that_were_told() -> None:
    scene = Scene([piece("a", 1, 2), piece("b", 3), LOST], [piece("c", 4), LOST], [last("d")])

    text = await scene.text()

    assert text == "abcd"
    assert [list(each.generated_token_ids) for each in scene.workers.generations] == [[], [1, 2, 3], [1, 2, 3, 4]]
    assert len({each.sampling.seed for each in scene.workers.generations}) == 1
    assert all(each.sampling.HasField("seed") for each in scene.workers.generations)
    assert 'mesh_retries_total{model="m",reason="UPSTREAM_LOST"} 2.0' in _page(scene.metrics)


async def test_a_clients_seed_stays() -> None:
    scene = Scene([last("a")])
    request = GenerateRequest(model="m")
    request.sampling.seed = 5

    await scene.text(request)

    assert scene.workers.generations[0].sampling.seed == 5


async def test_after_a_loss_others_may_be_full_or_not_ready_for_a_while() -> None:
    scene = Scene([piece("a"), LOST], [NOT_READY], [FULL], [last("b")])

    assert await scene.text() == "ab"
    assert len(scene.pauses) == 3


@pytest.mark.parametrize("error", [NOT_READY, FULL, INVALID, INTERNAL])
async def test_what_was_refused_is_not_asked_again(error: MeshError) -> None:
    with pytest.raises(MeshError) as caught:
        await Scene([error]).text()

    assert caught.value is error


async def test_it_gives_up_when_nobody_comes_back() -> None:
    scene = Scene(*[[LOST]] * (len(PAUSES_S) + 1))

    with pytest.raises(MeshError) as caught:
        await scene.text()

    assert caught.value is LOST
    assert scene.workers.scripts == []


async def test_it_does_not_wait_beyond_the_requests_time() -> None:
    scene = Scene([piece("a"), LOST])

    with pytest.raises(MeshError):
        await scene.text(timeout_s=PAUSES_S[0] / 2)

    assert scene.pauses == []


async def test_an_answer_that_was_complete_when_its_worker_was_lost_is_complete() -> None:
    scene = Scene([last("a"), LOST])

    assert await scene.text() == "a"


async def test_several_answers_of_which_nothing_was_told_begin_again_together() -> None:
    scene = Scene([LOST], [last("a"), of_answer(1, last("b"))])

    assert await scene.text(GenerateRequest(model="m", n=2)) == "ab"
    assert [each.n for each in scene.workers.generations] == [2, 2]


async def test_several_answers_go_on_one_after_the_other_each_with_its_seed() -> None:
    scene = Scene(
        [piece("a", 1), of_answer(1, last("x")), of_answer(2, piece("p", 8)), LOST],
        [piece("b", 2), LOST],
        [last("c")],
        [last("q")],
    )
    request = GenerateRequest(model="m", n=3)
    request.sampling.seed = 2**64 - 1

    pieces = [each async for each in scene.worker.generate(request, timeout_s=30)]

    texts = ["".join(each.text for each in pieces if each.index == index) for index in range(3)]
    assert texts == ["abc", "x", "pq"]
    asked = [(each.n, each.sampling.seed, list(each.generated_token_ids)) for each in scene.workers.generations]
    assert asked == [(3, 2**64 - 1, []), (1, 2**64 - 1, [1]), (1, 2**64 - 1, [1, 2]), (1, 1, [8])]
    assert [each.usage.prompt_tokens for each in pieces if each.HasField("usage")] == [5, 5, 0]


async def test_of_several_answers_one_that_ended_before_any_token_is_not_asked_for_again() -> None:
    ended = GenerateResponse(finish_reason=FINISH_REASON_STOP)
    scene = Scene([ended, LOST], [last("b")])
    request = GenerateRequest(model="m", n=2)
    request.sampling.seed = 5

    assert await scene.text(request) == "b"
    assert [(each.n, each.sampling.seed) for each in scene.workers.generations] == [(2, 5), (1, 6)]


async def test_vectors_are_asked_for_again() -> None:
    scene = Scene([LOST], [vectors([1.0])])

    assert await scene.worker.embed(EmbedRequest(model="e"), timeout_s=30) == vectors([1.0])


async def test_all_that_has_one_answer_is_asked_again_until_all_pauses_are_over() -> None:
    scene = Scene()
    for ask in (
        lambda: scene.worker.rerank(RerankRequest(), timeout_s=30),
        lambda: scene.worker.tokenize(TokenizeRequest(), timeout_s=30),
        lambda: scene.worker.detokenize(DetokenizeRequest(), timeout_s=30),
    ):
        with pytest.raises(MeshError):
            await ask()

    assert len(scene.pauses) == 3 * len(PAUSES_S)


async def test_workers_that_die_over_and_over_are_asked_a_fifth_more_in_the_long_run() -> None:
    scene = Scene()
    num_requests = 5000

    for _ in range(num_requests):
        with pytest.raises(MeshError):
            await scene.worker.rerank(RerankRequest(model="r"), timeout_s=30)

    assert AT_ONCE <= len(scene.pauses) <= AT_ONCE + SHARE * num_requests
    assert f'mesh_retries_total{{model="r",reason="UPSTREAM_LOST"}} {len(scene.pauses)}.0' in _page(scene.metrics)


async def test_a_ping_tells_what_is() -> None:
    scene = Scene()

    with pytest.raises(MeshError):
        await scene.worker.ping(ServedModel(id="m", kind="chat"), timeout_s=1)
    with pytest.raises(MeshError):
        scene.worker.check_staying()

    assert scene.pauses == []


def _page(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()
