"""How long refused clients are told to wait, against how long they then wait in a simulated queue."""

import heapq
import random
from statistics import median

import pytest

from services.gateway.upstream.drain_rate import LONGEST_S, DrainRate


class SimulatedQueue:
    """A worker of some servers and places in front of which clients ask again exactly when they were told to."""

    def __init__(self, *, num_servers: int, num_places: int, service_s: float, seed: int) -> None:
        self.rate = DrainRate()
        self.told: list[tuple[float, float]] = []  # of each refused client: what it was told first, what it waited
        self._num_servers, self._num_places, self._service_s = num_servers, num_places, service_s
        self._random = random.Random(seed)
        self._in_place = 0
        self._waiting = 0
        self._ends: list[float] = []

    def run(self, arrivals_s: list[float]) -> None:
        """Serve all clients. arrivals_s: when each asks for the first time."""
        asks = [(at_s, at_s, None) for at_s in arrivals_s]
        heapq.heapify(asks)
        while asks:
            now_s, first_s, told_s = heapq.heappop(asks)
            while self._ends and self._ends[0] <= now_s:
                self._end(heapq.heappop(self._ends))
            self.rate.begin(now_s)
            if self._in_place == self._num_places:
                self.rate.end(now_s, served=False)
                wait_s = self.rate.promise(now_s)
                heapq.heappush(asks, (now_s + wait_s, first_s, told_s or wait_s))
                continue
            self._in_place += 1
            self._waiting += 1
            self._serve(now_s)
            if told_s is not None:
                self.told.append((told_s, now_s - first_s))

    def _serve(self, now_s: float) -> None:
        if self._waiting and len(self._ends) < self._num_servers:
            self._waiting -= 1
            heapq.heappush(self._ends, now_s + self._random.uniform(0.5, 1.5) * self._service_s)

    def _end(self, now_s: float) -> None:
        self._in_place -= 1
        self.rate.end(now_s, served=True)
        self._serve(now_s)


@pytest.mark.parametrize("seed", range(5))
def test_nine_of_ten_clients_wait_about_as_long_as_they_were_told(seed: int) -> None:
    queue = SimulatedQueue(num_servers=8, num_places=16, service_s=1.0, seed=seed)
    burst = [4 + index / 80 for index in range(160)]  # ten times what the worker can do, for two seconds
    queue.run([index / 8 for index in range(32)] + burst)

    ratios = [waited_s / told_s for told_s, waited_s in queue.told if told_s >= 0.5]

    assert len(ratios) > 100
    assert sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios) >= 0.9
    assert 0.7 <= median(ratios) <= 1.4


def test_refused_clients_are_told_different_times() -> None:
    rate = DrainRate()
    for index in range(20):
        rate.begin(0)
        rate.end(index * 0.5, served=True)
    rate.begin(0)

    assert [round(rate.promise(10), 1) for _ in range(3)] == [0.5, 1.0, 1.5]


def test_a_promise_that_has_passed_delays_nobody() -> None:
    rate = DrainRate()
    rate.begin(0)
    rate.begin(0)
    rate.end(1, served=True)
    first_s = rate.promise(1)

    assert rate.promise(1 + first_s) == pytest.approx((1 + first_s + 1) / 2)  # one end in that time, and nobody ahead


def test_before_anything_ended_the_time_that_nothing_ended_is_told() -> None:
    rate = DrainRate()
    rate.begin(5)

    assert rate.promise(9) == 5


def test_what_was_known_of_an_earlier_time_is_what_is_told_at_first() -> None:
    rate = DrainRate()
    for _ in range(101):
        rate.begin(0)
    for index in range(100):
        rate.end(index / 10, served=True)
    rate.promise(10)
    rate.end(10, served=True)
    rate.begin(100)

    assert rate.promise(100) == pytest.approx(0.1, rel=0.1)


def test_nobody_is_told_to_wait_longer_than_clients_obey() -> None:
    rate = DrainRate()
    rate.begin(0)

    assert max(rate.promise(9) for _ in range(100)) == LONGEST_S
