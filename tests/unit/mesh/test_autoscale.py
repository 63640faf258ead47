"""How many workers are wanted, as Kubernetes' autoscaler would have it."""

import pytest

from mesh.autoscale import DOWN_PERIOD_S, RULES, UP_PERIOD_S, Autoscaler, Rule

RULE = Rule("load", 10)


def pages(load: float, count: int = 1) -> list[dict[str, float]]:
    return [{"load": load}] * count


def make(least: int = 1, most: int = 8) -> Autoscaler:
    return Autoscaler((RULE,), least, most)


@pytest.mark.parametrize(
    ("load", "current", "wanted"),
    [(10, 2, 2), (10.9, 2, 2), (9.1, 2, 2), (12, 2, 3), (15, 2, 3), (25, 1, 3), (0, 1, 1), (1000, 1, 3), (1000, 3, 6)],
)
def test_the_number_follows_the_mean_with_a_tolerance_and_at_most_doubles_or_grows_by_two(
    load: float, current: int, wanted: int
) -> None:
    assert make().decide(pages(load, current), current, 0.0) == wanted


def test_the_rule_that_asks_for_most_counts() -> None:
    scaler = Autoscaler((RULE, Rule("other", 1)), 1, 8)

    assert scaler.decide([{"load": 1, "other": 2}], 1, 0.0) == 2


def test_the_limits_hold() -> None:
    assert make(most=4).decide(pages(1000, 4), 4, 0.0) == 4
    assert make(least=2).decide(pages(0, 1), 1, 0.0) == 2


def test_it_goes_on_growing_only_in_the_next_period() -> None:
    scaler = make()

    numbers = [scaler.decide(pages(1000, 3), 3, at_s) for at_s in (0.0,)]
    numbers += [scaler.decide(pages(1000, 6), 6, at_s) for at_s in (UP_PERIOD_S / 2, UP_PERIOD_S + 1)]

    assert numbers == [6, 6, 8]


def test_it_shrinks_only_after_nothing_asked_for_more_and_by_half() -> None:
    scaler = make()
    scaler.decide(pages(10, 8), 8, 0.0)

    soon = scaler.decide(pages(0, 8), 8, DOWN_PERIOD_S - 1)
    late = scaler.decide(pages(0, 8), 8, DOWN_PERIOD_S + 1)
    later = scaler.decide(pages(0, 4), 4, DOWN_PERIOD_S + 2)

    assert (soon, late, later) == (8, 4, 4)


def test_who_begins_to_look_takes_no_worker_away_at_once() -> None:
    scaler = make()

    numbers = [scaler.decide(pages(0, 8), 8, at_s) for at_s in (0.0, 2.0, DOWN_PERIOD_S - 1, DOWN_PERIOD_S + 1)]

    assert numbers == [8, 8, 8, 4]


def test_a_change_counts_as_far_as_it_was_done() -> None:
    scaler = make(most=20)

    numbers = [scaler.decide(pages(1000, now), now, at_s) for at_s, now in ((0.0, 3), (2.0, 3), (4.0, 5), (34.0, 5))]

    assert numbers == [6, 6, 6, 10]


def test_a_load_that_comes_and_goes_does_not_flap() -> None:
    scaler, current, numbers = make(), 1, set[int]()
    for second in range(0, 1200, 15):
        load = 25 if (second // 60) % 2 == 0 else 0  # a minute of work, a minute of none
        current = scaler.decide(pages(load / current, current), current, float(second))
        numbers.add(current)

    assert numbers == {3}


def test_workers_that_are_just_enough_stay_though_nothing_waits() -> None:
    scaler, current, numbers = Autoscaler(RULES["embed"], 1, 8), 3, set[int]()
    for second in range(0, 1200, 15):
        page = {"mesh_queue_age_seconds": 0.0, "mesh_busy_ratio": 2.3 / current}  # the work of 2.3 workers
        current = scaler.decide([page] * current, current, float(second))
        numbers.add(current)

    assert numbers == {3}


@pytest.mark.parametrize(
    ("load", "count", "current", "wanted"), [(25, 1, 3, 3), (50, 1, 3, 5), (12, 2, 3, 3), (2, 1, 2, 2), (0, 2, 3, 1)]
)
def test_workers_that_do_not_answer_count_as_idle_where_more_are_wanted_and_as_busy_where_fewer_are(
    load: float, count: int, current: int, wanted: int
) -> None:
    scaler = make()
    scaler.decide(pages(load, count), current, 0.0)

    assert scaler.decide(pages(load, count), current, DOWN_PERIOD_S + 1) == wanted


def test_nobody_who_answers_changes_nothing() -> None:
    assert make().decide([], 3, 0.0) == 3


def test_every_kind_has_its_rules() -> None:
    assert {kind: [rule.metric for rule in rules] for kind, rules in RULES.items()} == {
        "chat": ["mesh_tokens_waiting", "vllm:kv_cache_usage_perc"],
        "embed": ["mesh_queue_age_seconds", "mesh_busy_ratio"],
        "rerank": ["mesh_inputs_waiting", "mesh_busy_ratio"],
    }
