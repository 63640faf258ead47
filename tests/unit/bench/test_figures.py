"""Medians, ratios, percentiles and the table of a measurement."""

import pytest

from bench.figures import Contest, Goal, Round, best_of_all, compare, gaps, percentile, quietest, to_markdown

SPEED = Contest("decode", "int8", "tokens/s", Goal(1.1))
WAIT = Contest("first token", "int8", "s", Goal(0.1, more_is_better=False))


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentile_is_the_smallest_value_that_enough_do_not_exceed(percent: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_percentile_of_few_values_is_one_of_them() -> None:
    assert [percentile([3.0, 1.0, 2.0], percent) for percent in (10, 50, 99)] == [1.0, 2.0, 3.0]


def test_gaps_are_those_that_touch_the_time_asked_for() -> None:
    times_s = [0.0, 1.0, 3.0, 6.0, 10.0]

    assert gaps(times_s) == [1, 2, 3, 4]
    assert gaps(times_s, since_s=2.0, until_s=3.5) == [2, 3]
    assert gaps(times_s, since_s=3.0, until_s=6.0) == [3]


def test_quietest_rounds_are_kept_even_when_they_are_slower() -> None:
    rounds = [Round({"ours": 9.0}, noise=0.3), Round({"ours": 1.0}, noise=0.0), Round({"ours": 2.0}, noise=0.1)]

    assert [each.values["ours"] for each in quietest(rounds, 2)] == [1.0, 2.0]


def test_ratio_is_that_of_the_best_of_each_side() -> None:
    rounds = [Round({"ours int8": 30.0, "ours fp32": 10.0, "llama": 20.0, "ct2": 15.0}, noise=0.01)]

    result = compare(SPEED, rounds, {})

    assert (result.ours, result.best, result.ratio) == ("ours int8", "llama", 1.5)


def test_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    values = [(10.0, 10.0), (20.0, 10.0), (90.0, 30.0)]  # 1x, 2x and 3x; the ratio of the medians is 2x as well
    drift = [(1.0, 1.0), (100.0, 50.0), (3.0, 1.5)]  # always 1x or 2x, while the machine became much faster
    ratios = [
        compare(SPEED, [Round({"ours": ours, "llama": llama}, 0.0) for ours, llama in pairs], {}).ratio
        for pairs in (values, drift)
    ]

    assert ratios == [2.0, 2.0]


def test_best_is_the_smallest_where_less_is_better() -> None:
    result = compare(WAIT, [Round({"ours a": 0.2, "ours b": 0.1, "cold": 2.0, "colder": 3.0}, 0.0)], {})

    assert (result.ours, result.best, result.ratio) == ("ours b", "cold", 0.05)


@pytest.mark.parametrize(
    ("goal", "ratio", "is_met"),
    [
        (Goal(1.1), 1.1, True),
        (Goal(1.1), 1.09, False),
        (Goal(3.0, more_is_better=False), 3.0, True),
        (Goal(3.0, more_is_better=False), 3.01, False),
    ],
)
def test_goal_is_met_on_its_own_side(goal: Goal, ratio: float, is_met: bool) -> None:
    assert goal.is_met(ratio) is is_met


def test_table_shows_what_is_missing_and_claims_nothing_without_a_peer() -> None:
    result = compare(SPEED, [Round({"ours int8": 123.4}, noise=0.05)], {"llama Q8_0": "it is not installed"})

    (_, _, line) = to_markdown([result]).splitlines()

    expected = "| decode | int8 | tokens/s | **ours int8 123** | llama Q8_0 – | – | ≥ 1.1x | not measured | 5% |"
    assert line == expected


@pytest.mark.parametrize(("ours", "shown"), [(121.0, "yes"), (120.0, "yes"), (110.0, "yes"), (109.0, "**no**")])
def test_table_says_whether_the_goal_is_met(ours: float, shown: str) -> None:
    table = to_markdown([compare(SPEED, [Round({"ours": ours, "llama": 100.0}, noise=0.0)], {})])

    assert f"| {shown} |" in table.splitlines()[-1]


def test_best_of_all_formats_is_compared_across_classes() -> None:
    int8 = compare(SPEED, [Round({"ours int8": 30.0, "llama Q8_0": 20.0}, 0.02)], {})
    int4 = compare(SPEED, [Round({"ours int4": 40.0, "llama Q4_0": 50.0}, 0.04)], {})
    single = compare(WAIT, [Round({"ours": 1.0, "cold": 2.0}, 0.0)], {})

    (total,) = best_of_all([int8, int4, single])

    assert (total.ours, total.best, total.ratio, total.noise) == ("ours int4", "llama Q4_0", 0.8, 0.04)
    assert total.contest.number_class == "any"
