"""The pace of prompts beside running streams, learnt from steps of a machine whose costs are known."""

import pytest

from services.chat_worker.engine.pace import Pace
from services.chat_worker.engine.scheduler import Chunk, Plan
from services.chat_worker.engine.sequence import RequestId, Sampling, Sequence, Stop

SEQUENCE = Sequence(RequestId(0), [1], 1, Sampling(0, 1, 0, 0), Stop(9, frozenset()))


def observe(pace: Pace, *, decoding: int = 0, prompt: int = 0, draft: int = 0, seconds: float) -> None:
    chunks = [Chunk(SEQUENCE, 1)] * decoding
    if draft:
        chunks[0] = Chunk(SEQUENCE, 1, (7,) * draft)
    pace.observe(Plan(chunks + ([Chunk(SEQUENCE, prompt)] if prompt else [])), seconds)


def step_s(decoding: int, prompt: int, draft: int = 0) -> float:
    """A machine that takes 10 ms to decode, 1 ms per sequence, 0.5 ms per token of a prompt, 2 ms per guess."""
    return (0.010 + 0.001 * decoding if decoding else 0.0) + 0.0005 * prompt + 0.002 * draft


def test_a_prompt_alone_has_the_whole_step() -> None:
    assert Pace(512).prompt_tokens(0, 1) == 512


def test_before_anything_is_known_a_prompt_advances_in_small_chunks() -> None:
    assert 0 < Pace(512).prompt_tokens(4, 1) < 64


@pytest.mark.parametrize("decoding", [1, 8, 32])
def test_a_prompt_stretches_steps_to_less_than_three_times_and_gets_more_than_half_of_them(decoding: int) -> None:
    pace = Pace(4096)
    observe(pace, prompt=400, seconds=step_s(0, 400))
    for _ in range(5):
        observe(pace, decoding=decoding, seconds=step_s(decoding, 0))
    for _ in range(20):
        prompt = pace.prompt_tokens(decoding, 1)
        seconds = step_s(decoding, prompt)
        assert seconds <= 3 * step_s(decoding, 0)
        assert seconds <= 2 * step_s(0, prompt)
        observe(pace, decoding=decoding, prompt=prompt, seconds=seconds)


def test_a_crowd_is_read_faster_beside_few_but_not_beside_as_many() -> None:
    pace = Pace(4096)
    observe(pace, prompt=400, seconds=step_s(0, 400))
    observe(pace, decoding=8, seconds=step_s(8, 0))
    one = pace.prompt_tokens(8, 1)
    assert pace.prompt_tokens(8, 8) == one
    assert pace.prompt_tokens(8, 24) == pytest.approx(3 * one, abs=3)
    assert Pace(512).prompt_tokens(8, 24) <= 512


def test_a_prompt_always_advances_however_dear_it_is() -> None:
    pace = Pace(512)
    observe(pace, decoding=1, seconds=0.001)
    observe(pace, prompt=10, seconds=10.0)
    assert pace.prompt_tokens(1, 1) >= 1


def test_steps_of_few_and_of_many_sequences_are_learnt_apart() -> None:
    pace = Pace(4096)
    observe(pace, prompt=100, seconds=step_s(0, 100))
    for decoding in (1, 32):
        observe(pace, decoding=decoding, seconds=step_s(decoding, 0))
    assert pace.prompt_tokens(32, 1) > 2 * pace.prompt_tokens(1, 1)


def test_prompts_are_not_blamed_for_streams_that_become_more_and_more() -> None:
    """A crowd on a worker that has just begun: every step beside a prompt, in numbers that were never met."""
    pace = Pace(4096)
    observe(pace, prompt=64, seconds=step_s(0, 64))
    for decoding in range(1, 33):
        prompt = pace.prompt_tokens(decoding, 1)
        observe(pace, decoding=decoding, prompt=prompt, seconds=step_s(decoding, prompt))
    assert pace.prompt_tokens(32, 1) > 0.5 * 1.25 * step_s(32, 0) / 0.0005


def test_a_guess_must_save_what_its_row_costs() -> None:
    pace = Pace(512)
    assert pace.draft_price(1) == 0  # nothing is known: try
    for decoding in (1, 8):
        observe(pace, decoding=decoding, seconds=step_s(decoding, 0))
        observe(pace, decoding=decoding, draft=4, seconds=step_s(decoding, 0, 4))
    assert pace.draft_price(1) == pytest.approx(0.002 / 0.011)
    assert pace.draft_price(8) == pytest.approx(0.002 * 8 / 0.018)


@pytest.mark.parametrize("decoding", [1, 8, 32])
def test_the_pace_is_found_when_every_step_has_a_prompt(decoding: int) -> None:
    pace = Pace(4096)
    observe(pace, prompt=400, seconds=step_s(0, 400))
    for _ in range(50):
        prompt = pace.prompt_tokens(decoding, 1)
        observe(pace, decoding=decoding, prompt=prompt, seconds=step_s(decoding, prompt))
    assert 2 * step_s(decoding, 0) < step_s(decoding, pace.prompt_tokens(decoding, 1)) <= 3 * step_s(decoding, 0)


def test_the_pace_follows_a_machine_that_becomes_slower() -> None:
    pace = Pace(4096)
    observe(pace, prompt=400, seconds=step_s(0, 400))
    observe(pace, decoding=8, seconds=step_s(8, 0))
    for _ in range(50):
        prompt = pace.prompt_tokens(8, 1)
        observe(pace, decoding=8, prompt=prompt, seconds=step_s(8, 0) + 3 * step_s(0, prompt))
        observe(pace, decoding=8, seconds=step_s(8, 0))
    assert step_s(8, 0) + 3 * step_s(0, pace.prompt_tokens(8, 1)) <= 3 * step_s(8, 0)


def test_one_hiccup_of_the_machine_is_soon_forgotten() -> None:
    pace = Pace(4096)
    observe(pace, prompt=400, seconds=step_s(0, 400))
    observe(pace, decoding=8, seconds=step_s(8, 0))
    usual = pace.prompt_tokens(8, 1)
    observe(pace, decoding=8, seconds=10.0)
    for _ in range(10):
        observe(pace, decoding=8, seconds=step_s(8, 0))
    assert pace.prompt_tokens(8, 1) == pytest.approx(usual, rel=0.1)


def test_a_slow_start_is_soon_forgotten() -> None:
    pace = Pace(4096)
    observe(pace, prompt=100, seconds=4 * step_s(0, 100))
    for _ in range(5):
        observe(pace, prompt=100, seconds=step_s(0, 100))
        observe(pace, decoding=8, seconds=step_s(8, 0))
    assert pace.prompt_tokens(8, 1) == pytest.approx(1.25 * step_s(8, 0) / 0.0005, rel=0.15)
