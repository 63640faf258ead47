"""How many tokens are computed for pairs that begin alike; the model is a stand-in that counts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rerank_worker.request import Pair
from services.rerank_worker.steps import BLOCK_LEN, Limits, PairSteps
from tests.fakes.step_counter import StepCounter

PREFIX = tuple(range(100, 100 + 2 * BLOCK_LEN + 5))
TAIL_LEN = 7


def steps_of(model: Any) -> PairSteps:
    return PairSteps(model, Limits(step_tokens=512, step_outputs=64, max_tokens=256))


def pair(number: int, *, prefix: tuple[int, ...] = PREFIX) -> Pair:
    return Pair((*prefix, *range(number, number + TAIL_LEN)), num_shared=len(prefix), truncated_tokens=0)


def num_computed(model: StepCounter, steps: PairSteps, *pairs: Pair) -> int:
    before = model.num_tokens
    outputs = list(steps.run(pairs, [1] * len(pairs)))
    assert sum(span.count for spans, _ in outputs for span in spans) == len(pairs)
    return model.num_tokens - before


def test_what_pairs_begin_with_is_computed_once_and_not_again_for_the_next_call() -> None:
    model = StepCounter()
    steps = steps_of(model)

    assert num_computed(model, steps, *(pair(number) for number in range(20))) == len(PREFIX) + 20 * TAIL_LEN
    assert num_computed(model, steps, *(pair(number) for number in range(3))) == 3 * TAIL_LEN


def test_each_of_several_queries_is_computed_once_however_its_pairs_lie() -> None:
    model = StepCounter()
    other = PREFIX[::-1]
    mixed = [pair(number, prefix=(PREFIX, other)[number % 2]) for number in range(10)]

    assert num_computed(model, steps_of(model), *mixed) == len(PREFIX) + len(other) + 10 * TAIL_LEN


@pytest.mark.parametrize("num_pairs", [4, 60])  # of each query: all at once, or in several waves
def test_queries_that_take_turns_are_computed_once(num_pairs: int) -> None:
    model = StepCounter()
    steps = steps_of(model)
    beginnings = [PREFIX, PREFIX[::-1]]
    mixed = [pair(number, prefix=each) for each in beginnings for number in range(num_pairs)]

    assert num_computed(model, steps, *mixed) == 2 * len(PREFIX) + 2 * num_pairs * TAIL_LEN
    for _ in range(3):
        assert num_computed(model, steps, *mixed) == 2 * num_pairs * TAIL_LEN


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), min_size=1, max_size=20))
def test_whatever_is_kept_leaves_room_for_the_longest_pair(calls: list[tuple[int, int]]) -> None:
    model = StepCounter()
    steps = steps_of(model)
    for kind, num_pairs in calls:
        longest = tuple(range(1000 * kind, 1000 * kind + 256 - TAIL_LEN - 6 * (kind % 9)))
        num_computed(model, steps, *(pair(n, prefix=each) for n in range(num_pairs) for each in (longest, PREFIX)))


def test_a_beginning_that_was_pushed_out_is_computed_again() -> None:
    model = StepCounter()
    steps = steps_of(model)
    num_computed(model, steps, pair(1), pair(2))
    num_computed(model, steps, pair(1, prefix=PREFIX[::-1]))

    assert num_computed(model, steps, pair(1), pair(2)) == len(PREFIX) + 2 * TAIL_LEN
