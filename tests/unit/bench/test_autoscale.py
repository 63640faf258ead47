"""The replay of a trace of load: its arrivals, and what is said of what was seen."""

from random import Random

import pytest

from bench.autoscale import METRICS, TRACE, Answer, Look, Verdict, arrivals, read_trace
from mesh.autoscale import DOWN_PERIOD_S, RULES


def looks(*numbers: int) -> list[Look]:
    return [Look(2.0 * index, number, number, 0.0, 0.0) for index, number in enumerate(numbers)]


def answers(*seconds: float | None) -> list[Answer]:
    return [Answer(10.0 * index, each) for index, each in enumerate(seconds)]


def test_the_trace_rises_above_two_workers_for_longer_than_an_autoscaler_waits_and_falls_again() -> None:
    trace = read_trace(TRACE)

    assert max(trace[:3]) < 0.8 > max(trace[-24:])
    assert sum(load > 2 for load in trace) * 10 > DOWN_PERIOD_S


def test_what_is_looked_at_is_what_decides() -> None:
    assert [rule.metric for rule in RULES["embed"]] == [*METRICS]


def test_requests_come_as_often_as_the_trace_says() -> None:
    times_s = list(arrivals([1.0, 3.0], 50.0, Random(1)))
    early = sum(at_s < 10 for at_s in times_s)

    assert times_s == sorted(times_s) and times_s[-1] < 20
    assert (early / 500, (len(times_s) - early) / 1500) == (pytest.approx(1, abs=0.15), pytest.approx(1, abs=0.1))


def test_growing_once_and_shrinking_once_within_the_bound_passes() -> None:
    verdict = Verdict.of(answers(*[0.1] * 20), looks(1, 1, 3, 3, 2, 1))

    assert (verdict.numbers, verdict.turns, verdict.held) == ((1, 3, 2, 1), 1, 1.0)
    assert verdict.problems() == []


@pytest.mark.parametrize(
    ("seconds", "numbers", "problem"),
    [
        ([0.1, None], (1, 3, 1), "1 requests failed"),
        ([0.1, 9.0], (1, 3, 1), "the bound held in 50%"),
        ([0.1], (1, 3, 1, 3, 1), "workers went (1, 3, 1, 3, 1)"),
        ([0.1], (1, 2, 1), "workers went (1, 2, 1)"),
    ],
)
def test_what_went_wrong_is_said(seconds: list[float | None], numbers: tuple[int, ...], problem: str) -> None:
    assert problem in Verdict.of(answers(*seconds), looks(*numbers)).problems()
