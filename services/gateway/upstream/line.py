"""Decides which refused client comes back when, and keeps its place until then; knows no text and no clock."""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final, NamedTuple

from services.gateway.upstream.drain_rate import DrainRate
from services.gateway.upstream.turns import Turns

LONGEST_S: Final = 600.0  # what is promised at most: as long as a request may take
_EARLY_S: Final = 0.02  # a client that comes so much too early is on time
_LATE_S: Final = 1.5  # so much too late too: `retry-after` is rounded up to a second
_LONGEST_LINE: Final = 8192  # promises in hand; whoever comes then is told a time and finds no place kept
_AHEAD, _MOST_KEPT = 0.25, 0.5  # shares of the room: how far ahead places are kept, and how many
_TRY_AFTER: Final = 4  # places that become free between two attempts to find more room
_MEMORY: Final = 0.05  # how much one promise counts in the share of those that are kept


class Ask(NamedTuple):
    """Tells requests apart; the same when one is sent again. tenant: who sent it."""

    tenant: str
    request: bytes


class _Promise(NamedTuple):
    ask: Ask
    turns: Turns
    turn: int


class Line:
    """The clients who were refused for want of room by the workers of one model. Times are of any clock, in seconds.

    Each is told its own time, one after the other at the pace at which places become free; a tenant with fewer in line
    goes ahead of what others have there beyond as many. Who asks again as told is let through. A newcomer, and one who
    comes too early, is let through only where there is room for those who are due as well; else the newcomer joins the
    line, and the other hears what is left. Who does not come back loses its place soon after its time, the fewer come
    back, the fewer places are kept, and newcomers find what room is new: no worker idles while somebody asks.
    """

    def __init__(self) -> None:
        self.rate = DrainRate()
        self._dues_s: list[float] = []  # ascending, each one client's
        self._promises: dict[float, _Promise] = {}
        self._by_ask: defaultdict[Ask, deque[float]] = defaultdict(deque)
        self._newcomers, self._in_vain = Turns(), Turns()  # who waits for the first time, and who has before
        self._front_s = 0.0  # the last time given to one who had waited in vain
        self._behind_s = 0.0  # so much later than it was told is the turn of the last one, because others went ahead
        self._kept_share = 1.0
        self._room = 0  # requests in progress for which a worker has room, as far as is known
        self._more = 1  # for how many more to try, at that time
        self._try_s = 0.0

    def wait_s(self, ask: Callable[[], Ask], now_s: float) -> float | None:
        """How long a client that asks now must wait; 0 if it has waited, None if it need not wait at all."""
        self._forget(now_s)
        if not self._dues_s:
            return None
        has_room = self._has_room_beside_those_due(now_s)
        if (dues_s := self._by_ask.get(ask())) is None:
            return None if has_room or self._tries_for_more(now_s) else self._promise_last(ask(), now_s)
        if not has_room and now_s < dues_s[0] - _EARLY_S:
            return dues_s[0] - now_s
        self._drop(dues_s[0], kept=True)
        return 0.0

    def refuse(self, ask: Ask, now_s: float, *, has_waited: bool) -> float:
        """A worker had no room for a request in progress: how long to wait. Who waited in vain goes to the front."""
        self._room, self._more = self.rate.num_running - 1, 1
        self._try_s = now_s + _TRY_AFTER * self.rate.seconds_a_place(now_s)
        if not has_waited:
            return self._promise_last(ask, now_s)
        pace_s = self.rate.seconds_a_place(now_s)
        if (num_before := self._in_vain.num_before(ask.tenant)) < len(self._in_vain):
            return self._promise(ask, now_s + (num_before + 1) * pace_s, now_s, self._in_vain)
        self._front_s = max(now_s, self._front_s) + pace_s
        return self._promise(ask, self._front_s, now_s, self._in_vain)

    def _has_room_beside_those_due(self, now_s: float) -> bool:
        """Places become free in lumps: who is due while a quarter of the room changes counts, up to half of it."""
        pace_s = self.rate.seconds_a_place(now_s)
        num_due = bisect_left(self._dues_s, now_s + max(2, _AHEAD * self._room) * pace_s)
        num_kept = min(self._kept_share * num_due, _MOST_KEPT * self._room)
        return self.rate.num_running == 0 or self.rate.num_running + num_kept < self._room

    def _tries_for_more(self, now_s: float) -> bool:
        """Workers say when they are full, never that they no longer are: now and then a newcomer is let find out.

        One who is refused joins the end, as without the attempt; for each who is not, there is twice as much more room.
        """
        if now_s < self._try_s:
            return False
        self._room = max(self._room, self.rate.num_running + self._more)
        self._more *= 2
        self._try_s = now_s + _TRY_AFTER * self.rate.seconds_a_place(now_s)
        return True

    def _promise_last(self, ask: Ask, now_s: float) -> float:
        """Last of its tenant, that is: ahead of those whom tenants with more in line have there beyond as many."""
        pace_s = self.rate.seconds_a_place(now_s)
        if (num_before := self._newcomers.num_before(ask.tenant)) < len(self._newcomers):
            self._behind_s += pace_s
            num_before += len(self._in_vain)
            return self._promise(ask, now_s + (num_before + 1) * pace_s, now_s, self._newcomers)
        last_s = max(self._dues_s[-1], now_s) + self._behind_s if self._dues_s else now_s
        self._behind_s = 0.0
        return self._promise(ask, last_s + pace_s, now_s, self._newcomers)

    def _promise(self, ask: Ask, due_s: float, now_s: float, turns: Turns) -> float:
        due_s = min(due_s, now_s + LONGEST_S)
        while due_s in self._promises:
            due_s += 1e-6
        if len(self._dues_s) < _LONGEST_LINE:
            insort(self._dues_s, due_s)
            self._promises[due_s] = _Promise(ask, turns, turns.join(ask.tenant))
            self._by_ask[ask].append(due_s)
        return due_s - now_s

    def _forget(self, now_s: float) -> None:
        while self._dues_s and self._dues_s[0] < now_s - _LATE_S:
            self._drop(self._dues_s[0], kept=False)

    def _drop(self, due_s: float, *, kept: bool) -> None:
        del self._dues_s[bisect_left(self._dues_s, due_s)]
        ask, turns, turn = self._promises.pop(due_s)
        turns.leave(ask.tenant, turn)
        self._by_ask[ask].remove(due_s)
        if not self._by_ask[ask]:
            del self._by_ask[ask]
        self._kept_share += _MEMORY * (kept - self._kept_share)
