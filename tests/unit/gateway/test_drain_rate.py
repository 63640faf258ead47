"""How fast places become free, by how fast requests end."""

import pytest

from services.gateway.upstream.drain_rate import DrainRate


def test_before_anything_ended_each_request_is_thought_to_take_two_seconds_or_what_it_has_taken() -> None:
    rate = DrainRate()
    for _ in range(4):
        rate.begin(5)

    assert rate.seconds_a_place(5.5) == 2 / 4
    assert rate.seconds_a_place(9) == 4 / 4


def test_what_was_known_of_an_earlier_time_is_what_is_told_at_first() -> None:
    rate = DrainRate()
    for _ in range(101):
        rate.begin(0)
    for index in range(100):
        rate.end(index / 10, served=True)
    rate.seconds_a_place(10)
    rate.end(10, served=True)
    rate.begin(100)

    assert rate.seconds_a_place(100) == pytest.approx(0.1, rel=0.1)


def test_a_request_that_had_no_place_frees_none() -> None:
    rate = DrainRate()
    for _ in range(20):
        rate.begin(0)
    for _ in range(10):
        rate.end(4, served=True)
        rate.end(4, served=False)

    assert rate.seconds_a_place(5.5) == 0.5
