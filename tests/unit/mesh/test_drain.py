"""When workers that leave may be stopped."""

from mesh.drain import DRAIN_S, SEEN_S, UNLISTED_S, Drain
from mesh.plan import Part

PARTS = [Part(f"e-{number}", "embed", number, (), grpc=f"127.0.0.1:{number}", model="e") for number in (1, 2)]


def test_a_worker_goes_when_envoy_has_seen_that_it_leaves_and_its_answers_have_ended() -> None:
    busy = {"e-1"}
    drain = Drain(lambda part: part.name in busy)

    assert drain.over(PARTS[:1], {1, 2}, 0.0) == []
    assert drain.over(PARTS[:1], {2}, 1.0) == []
    assert drain.over(PARTS[:1], {2}, 1.0 + SEEN_S) == []
    busy.clear()
    assert drain.over(PARTS[:1], {2}, 1.1 + SEEN_S) == PARTS[:1]


def test_each_goes_in_its_own_time() -> None:
    drain = Drain(lambda part: part.name == "e-1")
    drain.over(PARTS[:1], set(), 0.0)
    drain.over(PARTS, set(), 5.0)

    assert drain.over(PARTS, set(), 5.0 + SEEN_S) == PARTS[1:]
    assert drain.over(PARTS[:1], set(), DRAIN_S - 1) == []
    assert drain.over(PARTS[:1], set(), DRAIN_S) == PARTS[:1]


def test_a_watchdog_that_does_not_see_it_is_not_waited_for_for_ever() -> None:
    drain = Drain(lambda _: False)
    drain.over(PARTS, {1, 2}, 0.0)

    assert drain.over(PARTS, {1, 2}, UNLISTED_S) == []
    assert drain.over(PARTS, {1, 2}, UNLISTED_S + SEEN_S) == PARTS


def test_a_later_worker_of_the_same_name_begins_anew() -> None:
    drain = Drain(lambda _: False)
    drain.over(PARTS[:1], set(), 0.0)
    assert drain.over(PARTS[:1], set(), SEEN_S) == PARTS[:1]
    drain.over([], set(), 50.0)

    assert drain.over(PARTS[:1], set(), 100.0) == []
