"""How long refused clients are told to wait, against how long they then wait in a simulated queue."""

import heapq
import itertools
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from statistics import median

import pytest

from services.gateway.upstream.line import LONGEST_S, Ask, Line


class SimulatedQueue:
    """A worker of some servers and places in front of which clients ask again exactly when they were told to.

    returning: the share of refusals after which a client does so. gone: a tenant whose clients never do. lumps: whether
    all answers take exactly a second, so that they end together. counted_s: between which two times who is served is
    counted. size: of how many servers and places the worker is at a time. gateways: how many, of which each has a line
    of its own and any may be asked.
    """

    NUM_SERVERS, NUM_PLACES = 8, 16  # and a second for each answer, about

    def __init__(
        self,
        *,
        seed: int,
        returning: float = 1.0,
        gone: str | None = None,
        lumps: bool = False,
        counted_s: tuple[float, float] = (0, 60),
        size: Callable[[float], tuple[int, int]] = lambda _: (SimulatedQueue.NUM_SERVERS, SimulatedQueue.NUM_PLACES),
        gateways: int = 1,
    ) -> None:
        self._lines, self._balance = [Line() for _ in range(gateways)], random.Random(seed)
        self.told: defaultdict[str, list[tuple[float, float]]] = defaultdict(
            list
        )  # first, and what it waited; by tenant
        self.served = 0
        self._random = random.Random(seed)
        self._gone, self._returning, self._lumps, self._counted_s, self._size = gone, returning, lumps, counted_s, size
        self._in_place = 0
        self._waiting: deque[int] = deque()  # the gateways they came through
        self._ends: list[tuple[float, int]] = []

    def run(self, arrivals_s: Iterable[float], **others_s: Iterable[float]) -> None:
        """Serve all clients. arrivals_s: when each asks for the first time. others_s: the same of further tenants."""
        arrivals = [(at_s, whose) for whose, times_s in {"": arrivals_s, **others_s}.items() for at_s in times_s]
        asks: list[tuple[float, Ask, float, float | None]] = [
            (at_s, Ask(whose, b"%d" % client), at_s, None) for client, (at_s, whose) in enumerate(arrivals)
        ]
        heapq.heapify(asks)
        while asks:
            now_s, ask, first_s, told_s = heapq.heappop(asks)
            while self._ends and self._ends[0][0] <= now_s:
                self._end(*heapq.heappop(self._ends))
            wait_s = self._ask(ask, now_s)
            if wait_s is None:
                if told_s is not None:
                    self.told[ask.tenant].append((told_s, now_s - first_s))
            elif ask.tenant != self._gone and self._random.random() < self._returning:
                heapq.heappush(asks, (now_s + wait_s, ask, first_s, told_s or wait_s))

    def _ask(self, ask: Ask, now_s: float) -> float | None:
        """How long that client is told to wait; None if it was served."""
        gateway = self._balance.randrange(len(self._lines))
        line = self._lines[gateway]
        wait_s = line.wait_s(lambda: ask, now_s)
        if wait_s:
            return wait_s
        line.rate.begin(now_s)
        if self._in_place >= self._size(now_s)[1]:
            refused_s = line.refuse(ask, now_s, has_waited=wait_s is not None)
            line.rate.end(now_s, served=False)
            return refused_s
        self._in_place += 1
        self._waiting.append(gateway)
        self._serve(now_s)
        return None

    def _serve(self, now_s: float) -> None:
        while self._waiting and len(self._ends) < self._size(now_s)[0]:
            end_s = now_s + (1 if self._lumps else self._random.uniform(0.5, 1.5))
            heapq.heappush(self._ends, (end_s, self._waiting.popleft()))

    def _end(self, now_s: float, gateway: int) -> None:
        self._in_place -= 1
        self.served += self._counted_s[0] <= now_s < self._counted_s[1]
        self._lines[gateway].rate.end(now_s, served=True)
        self._serve(now_s)

    def shares(self, tenant: str = "") -> tuple[float, float]:
        """Of those who waited half a second or more: the share within twice what they were told, and the median."""
        ratios = [waited_s / told_s for told_s, waited_s in self.told[tenant] if told_s >= 0.5]
        assert len(ratios) > 100
        return sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios), median(ratios)


@pytest.mark.parametrize("seed", range(5))
def test_after_a_burst_nearly_all_clients_wait_as_long_as_they_were_told(seed: int) -> None:
    queue = SimulatedQueue(seed=seed)
    burst = [4 + index / 80 for index in range(160)]  # ten times what the worker can do, for two seconds
    queue.run([index / 8 for index in range(32)] + burst)

    within, middle = queue.shares()

    assert within >= 0.95
    assert 0.8 <= middle <= 1.25


def overload(seed: int, *, over: float = 10.0, until_s: float = 60.0) -> Iterable[float]:
    """Newcomers, so many times what the worker can do."""
    draw = random.Random(seed)
    times_s = itertools.accumulate(draw.expovariate(over * SimulatedQueue.NUM_SERVERS) for _ in itertools.repeat(0))
    return itertools.takewhile(lambda at_s: at_s < until_s, times_s)


@pytest.mark.parametrize("lumps", [False, True])
@pytest.mark.parametrize(("over", "returning"), [(10, 1.0), (10, 0.5), (3, 1.0), (1.5, 1.0)])
def test_in_a_minute_of_overload_what_clients_are_told_holds_and_no_worker_idles(
    over: float, returning: float, lumps: bool
) -> None:
    queue = SimulatedQueue(seed=1, returning=returning, lumps=lumps)
    queue.run(overload(1, over=over))

    within, middle = queue.shares()

    assert within >= 0.95
    assert 0.8 <= middle <= 1.25
    assert queue.served >= 0.95 * 60 * queue.NUM_SERVERS


@pytest.mark.parametrize("gateways", [2, 3])
@pytest.mark.parametrize("over", [10, 3, 1.5])
def test_behind_several_gateways_most_of_what_clients_are_told_holds_and_no_worker_idles(
    over: float, gateways: int
) -> None:
    queue = SimulatedQueue(seed=1, gateways=gateways)
    queue.run(overload(1, over=over))

    within, _ = queue.shares()

    assert within >= 0.75
    assert queue.served >= 0.95 * 60 * queue.NUM_SERVERS


def test_clients_who_never_come_back_cost_the_others_nothing() -> None:
    queue = SimulatedQueue(seed=2, returning=0)
    queue.run(overload(2))

    assert queue.served >= 0.95 * 60 * queue.NUM_SERVERS


@pytest.mark.parametrize("returning", [1.0, 0.5])
@pytest.mark.parametrize("over", [1.0, 3.0, 10.0])
def test_room_that_is_new_is_found_within_seconds(over: float, returning: float) -> None:
    def size(now_s: float) -> tuple[int, int]:
        return (2, 4) if now_s < 60 else (8, 16)  # a worker comes, or bulk goes that had most of one

    queue = SimulatedQueue(seed=1, returning=returning, counted_s=(70, 120), size=size)
    queue.run(overload(1, over=over, until_s=120))

    assert queue.served >= 0.9 * 50 * queue.NUM_SERVERS


BURST_S = [1 + index / 1000 for index in range(4000)]  # of requests for more than eight minutes
STEADY_S = [1.5 + index for index in range(120)]


def test_a_tenant_who_never_comes_back_keeps_no_other_from_an_idle_worker() -> None:
    queue = SimulatedQueue(seed=1, gone="rude")
    queue.run(STEADY_S, rude=BURST_S)

    assert max(waited_s for _, waited_s in queue.told[""]) < 2


@pytest.mark.parametrize("seed", range(3))
def test_a_tenant_who_asks_little_waits_seconds_behind_one_who_asks_much_and_both_as_told(seed: int) -> None:
    queue = SimulatedQueue(seed=seed)
    queue.run(STEADY_S, greedy=BURST_S)

    for tenant in ("", "greedy"):
        within, middle = queue.shares(tenant)
        assert within >= 0.95
        assert 0.8 <= middle <= 1.25
    assert median(waited_s for _, waited_s in queue.told[""]) < 15


@pytest.mark.parametrize("seed", range(3))
def test_tenants_who_ask_as_much_wait_as_long_and_as_told(seed: int) -> None:
    queue = SimulatedQueue(seed=seed)
    queue.run(overload(seed, over=3), other=overload(seed + 10, over=3))

    waits_s = [median(waited_s for _, waited_s in queue.told[tenant]) for tenant in ("", "other")]
    assert waits_s[0] == pytest.approx(waits_s[1], rel=0.2)
    assert min(queue.shares("")[0], queue.shares("other")[0]) >= 0.95


def test_a_worker_is_asked_now_and_then_whether_it_is_still_full() -> None:
    line, _ = full_line()
    waits_s = [line.wait_s(lambda index=index: ask(b"%d" % index), 10) or 0 for index in range(5)]

    assert line.wait_s(lambda: ask(b"too soon"), 12) is not None
    assert line.wait_s(lambda: ask(b"newcomer"), 13) is None
    line.rate.begin(13)
    assert 13 + line.refuse(ask(b"newcomer"), 13, has_waited=False) > 10 + waits_s[-1]
    assert line.wait_s(lambda: ask(b"another"), 13) is not None


def ask(request: bytes, tenant: str = "") -> Ask:
    return Ask(tenant, request)


def full_line() -> tuple[Line, float]:
    """Two requests in progress, which is all there is room for, and what one client was told who was refused.

    Places become free one in a second, as far as is known.
    """
    line = Line()
    line.rate.begin(8)
    line.rate.begin(8)
    assert line.rate.seconds_a_place(10) == 1
    line.rate.begin(10)
    told_s = line.refuse(ask(b"first"), 10, has_waited=False)
    line.rate.end(10, served=False)
    return line, told_s


def test_a_newcomer_joins_the_end_without_asking_the_worker() -> None:
    line, told_s = full_line()

    assert line.wait_s(lambda: ask(b"second"), 10) == pytest.approx(told_s + 1)
    assert line.wait_s(lambda: ask(b"third"), 10) == pytest.approx(told_s + 2)


def test_each_tenants_first_goes_before_anybodys_second() -> None:
    line, _ = full_line()
    waits_s = [line.wait_s(lambda index=index: ask(b"%d" % index), 10) or 0 for index in range(10)]

    assert line.wait_s(lambda: ask(b"1st", "other"), 10) == pytest.approx(2)
    assert line.wait_s(lambda: ask(b"2nd", "other"), 10) == pytest.approx(4)
    assert line.wait_s(lambda: ask(b"1st", "third"), 10) == pytest.approx(3)
    assert line.wait_s(lambda: ask(b"last"), 10) == pytest.approx(waits_s[-1] + 1 + 3)  # who went ahead counts


def test_one_who_comes_too_early_hears_what_is_left_and_keeps_its_place() -> None:
    line, told_s = full_line()

    assert line.wait_s(lambda: ask(b"first"), 10.25) == pytest.approx(told_s - 0.25)
    assert line.wait_s(lambda: ask(b"first"), 10 + told_s) == 0


def test_the_same_request_of_several_clients_has_a_place_for_each() -> None:
    line, told_s = full_line()
    line.wait_s(lambda: ask(b"second"), 10)
    assert line.refuse(ask(b"first"), 10, has_waited=False) == pytest.approx(told_s + 2)

    assert line.wait_s(lambda: ask(b"first"), 10 + told_s) == 0
    assert line.wait_s(lambda: ask(b"first"), 10 + told_s) == pytest.approx(2)


def test_one_who_waited_in_vain_waits_for_the_next_place_however_long_the_line_is() -> None:
    line, _ = full_line()
    waits_s = [line.wait_s(lambda index=index: ask(b"%d" % index), 10) or 0 for index in range(20)]
    assert line.wait_s(lambda: ask(b"first"), 11) == 0
    line.rate.begin(11)

    again_s = line.refuse(ask(b"first"), 11, has_waited=True)

    assert again_s == line.rate.seconds_a_place(11) < waits_s[-1] / 10


def test_with_nothing_in_progress_anybody_may_ask() -> None:
    line, _ = full_line()
    line.rate.end(10, served=True)
    line.rate.end(10, served=True)

    assert line.wait_s(lambda: ask(b"newcomer"), 10) is None
    assert line.wait_s(lambda: ask(b"first"), 10) == 0


def test_a_time_that_has_passed_holds_up_nobody() -> None:
    line, _ = full_line()

    assert line.wait_s(lambda: ask(b"newcomer"), 13) is None


def test_nobody_is_told_to_wait_longer_than_a_request_may_take() -> None:
    line, _ = full_line()

    assert max(line.wait_s(lambda index=index: ask(b"%d" % index), 10) or 0 for index in range(1000)) == pytest.approx(
        LONGEST_S
    )
