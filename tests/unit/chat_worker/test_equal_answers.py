"""A real model gives the same answer however the engine computes it: that of one sequence, whole, with no cache."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import pytest
import torch

from modelkit.attention import CausalAttention
from modelkit.decoder import Decoder
from modelkit.flash import FlashAttention
from modelkit.native.build import available
from modelkit.native.library import open_library
from modelkit.native.model import NativeDecoder, NativeWeights
from modelkit.native.packing import Format
from modelkit.paged import PagedDecoder, PagedModel
from services.chat_worker.engine.runner import ModelRunner
from services.chat_worker.engine.sampler import Row, Sampled, sample
from services.chat_worker.engine.sequence import RequestId, Sampling, answer_seed
from services.chat_worker.engine.speculate import PromptLookup
from tests.fakes import flash_attn
from tests.fakes.stepped_engine import GREEDY, Job, SteppedEngine
from tests.fixtures.tiny_decoder import tiny_decoder

SEEDED = Sampling(temperature=1.3, top_p=0.95, top_k=40, seed=11)
PERIOD = b"\x05\x11\x2b\x07"


@cache
def make_decoder() -> Decoder:
    return tiny_decoder(head_dim=32)  # the native step's least


@dataclass(frozen=True)
class Backend:
    """A model with its attention over num_blocks blocks of block_len tokens."""

    block_len: int
    num_blocks: int
    make: Callable[[int], PagedModel]


def make_native(num_blocks: int, *, name: str) -> NativeDecoder:
    decoder = make_decoder()
    weights = NativeWeights.build(decoder.config, decoder.named_parameters(), Format.FP32)
    return NativeDecoder(weights, open_library(name), num_blocks=num_blocks, block_len=32)


def make_torch(num_blocks: int) -> PagedDecoder:
    return PagedDecoder(make_decoder(), num_blocks=num_blocks, block_len=4)


def make_flash(num_blocks: int) -> PagedDecoder:
    attention = partial(FlashAttention, kernels=flash_attn)
    return PagedDecoder(make_decoder(), num_blocks=num_blocks, block_len=256, attention=attention)


# so few blocks that sequences give way
BACKENDS = {"sdpa": Backend(4, 60, make_torch), "flash-attn": Backend(256, 4, make_flash)} | {
    f"native {name}": Backend(32, 9, partial(make_native, name=name)) for name in available()
}


def make_jobs(sampling: Sampling) -> list[Job]:
    """Thirty-two requests of many lengths; every second one repeats itself, so that guesses can hold."""
    generator = torch.Generator().manual_seed(3)
    jobs: list[Job] = []
    for number in range(32):
        length = 1 + 5 * number % 61
        drawn = bytes(torch.randint(0, 96, (length,), generator=generator).tolist())
        prompt = drawn if number % 2 else (PERIOD * 20)[: length + 8]
        jobs.append(Job(prompt, max_tokens=8 + number % 17, sampling=replace(sampling, seed=sampling.seed + number)))
    return jobs


def plain_answer(job: Job, index: int = 0) -> list[int]:
    seed = answer_seed(job.sampling.seed, index) if job.sampling.temperature else 0
    return generate(job.prompt, job.max_tokens, job.sampling.temperature, seed)


@cache
@torch.inference_mode()
def generate(prompt: bytes, max_tokens: int, temperature: float, seed: int) -> list[int]:
    """Compute the whole text anew for every token."""
    decoder, token_ids = make_decoder(), list(prompt)
    sampling = replace(SEEDED if temperature else GREEDY, seed=seed)
    for _ in range(max_tokens):
        end = torch.tensor([len(token_ids) - 1])
        positions = torch.arange(len(token_ids))
        logits = decoder(torch.tensor(token_ids), positions, CausalAttention([len(token_ids)]), end)
        (token,) = sample(logits, [Row(sampling, token_ids, len(prompt))])
        assert isinstance(token, Sampled)
        token_ids.append(token.token_id)
    return token_ids[len(prompt) :]


def make_engine(**limits: int) -> SteppedEngine:
    model = make_torch(limits.setdefault("num_blocks", 1024))
    return SteppedEngine(runner=ModelRunner(model), **({"max_running": 32} | limits))


def run(engine: SteppedEngine, jobs: list[Job]) -> None:
    for number, job in enumerate(jobs):
        engine.add(number, job)
    engine.finish()


def assert_plain(engine: SteppedEngine, jobs: list[Job]) -> None:
    for number, job in enumerate(jobs):
        for index in range(job.n):
            assert engine.sink.tokens(RequestId(number), index) == plain_answer(job, index), f"request {number}"


both = pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])


@both
def test_alone(sampling: Sampling) -> None:
    jobs = make_jobs(sampling)
    engine = make_engine()
    for number, job in enumerate(jobs):
        engine.add(number, job)
        engine.finish()
    assert_plain(engine, jobs)


@both
def test_in_a_batch_of_32(sampling: Sampling) -> None:
    jobs = make_jobs(sampling)
    engine = make_engine(max_step_tokens=4096)
    run(engine, jobs)
    assert_plain(engine, jobs)


@both
def test_in_chunks(sampling: Sampling) -> None:
    jobs = make_jobs(sampling)
    engine = make_engine(max_step_tokens=7, max_running=5)
    run(engine, jobs)
    assert_plain(engine, jobs)


@both
def test_from_the_prefix_cache(sampling: Sampling) -> None:
    jobs = make_jobs(sampling)
    engine = make_engine()
    run(engine, jobs)
    again = {number: engine.add(100 + number, job) for number, job in enumerate(jobs)}
    engine.finish()
    assert engine.blocks.num_hit > 0.4 * engine.blocks.num_queried
    assert all(engine.sink.tokens(again[number]) == plain_answer(job) for number, job in enumerate(jobs))


@both
def test_after_preemption(sampling: Sampling) -> None:
    jobs = make_jobs(sampling)
    engine = make_engine(num_blocks=40)
    run(engine, jobs)
    assert engine.scheduler.batch.num_preemptions > 5
    assert_plain(engine, jobs)


def foresee(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let most guesses be right, and the last token of the others wrong: random weights repeat nothing to be found."""
    texts = [list(job.prompt) + plain_answer(job, index) for job in jobs for index in range(job.n)]

    def propose(_lookup: PromptLookup, token_ids: list[int], num_tokens: int) -> tuple[int, ...]:
        text = next(text for text in texts if text[: len(token_ids)] == token_ids)
        guess = text[len(token_ids) :][:num_tokens]
        return (*guess[:-1], 95 - guess[-1]) if len(token_ids) % 3 == 0 and guess else tuple(guess)

    monkeypatch.setattr(PromptLookup, "propose", propose)


@both
def test_with_guesses(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [replace(job, speculate=True) for job in make_jobs(sampling)]
    foresee(jobs, monkeypatch)
    engine = make_engine(max_step_tokens=200)
    run(engine, jobs)
    load = engine.sink.loads[-1]
    assert load.num_draft_tokens > load.num_accepted_draft_tokens > 200
    assert_plain(engine, jobs)


@both
def test_beside_neighbours_who_leave(sampling: Sampling) -> None:
    jobs = make_jobs(sampling)
    engine = make_engine(num_blocks=120, max_step_tokens=24)
    for number, job in enumerate(jobs):
        engine.add(number, job)
    for number in range(0, 32, 3):
        engine.step()
        engine.engine.drop(RequestId(number))
    engine.finish()
    for number, job in enumerate(jobs):
        tokens, plain = engine.sink.tokens(RequestId(number)), plain_answer(job)
        assert tokens == (plain if number % 3 else plain[: len(tokens)])


@both
def test_as_one_of_several_answers_that_share_and_copy_blocks(sampling: Sampling) -> None:
    jobs = [replace(job, n=1 + number % 4) for number, job in enumerate(make_jobs(sampling))]
    engine = make_engine(num_blocks=150)
    run(engine, jobs)
    assert_plain(engine, jobs)


@both
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_with_everything_at_once(sampling: Sampling, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    beginning = (bytes(range(96)) * 3)[: max(0, backend.block_len - 8)]
    jobs = [
        replace(job, prompt=beginning + job.prompt, n=1 + number % 3, speculate=number % 4 < 2)
        for number, job in enumerate(make_jobs(sampling))
    ]
    foresee(jobs, monkeypatch)
    engine = SteppedEngine(
        runner=ModelRunner(backend.make(backend.num_blocks)),
        num_blocks=backend.num_blocks,
        block_len=backend.block_len,
        max_step_tokens=max(30, backend.block_len),
        max_running=9,
    )
    for number, job in enumerate(jobs):
        engine.add(number, job)
        engine.step()
    engine.finish()
    load = engine.sink.loads[-1]
    assert load.num_preemptions > 0 and load.num_accepted_draft_tokens > 0 and load.num_prefix_hit > 0
    assert_plain(engine, jobs)
