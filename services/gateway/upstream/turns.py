"""Decides who goes before whom where clients of several tenants wait; knows no time."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter


class Turns:
    """Of those who wait: each tenant's first goes before anybody's second, and so on."""

    def __init__(self) -> None:
        self._turns: list[int] = []  # ascending, each one client's
        self._last_turns: dict[str, int] = {}  # of the tenants who wait
        self._nums_waiting: Counter[str] = Counter()
        self._turn = 0  # the latest one of those who left

    def __len__(self) -> int:
        return len(self._turns)

    def num_before(self, tenant: str) -> int:
        """How many go before the one who is that tenant's next to join."""
        return bisect_right(self._turns, self._next(tenant))

    def join(self, tenant: str) -> int:
        """Let one more wait; returns its turn."""
        turn = self._next(tenant)
        insort(self._turns, turn)
        self._last_turns[tenant] = turn
        self._nums_waiting[tenant] += 1
        return turn

    def leave(self, tenant: str, turn: int) -> None:
        """One who joined waits no longer."""
        del self._turns[bisect_left(self._turns, turn)]
        self._turn = max(self._turn, turn)
        self._nums_waiting[tenant] -= 1
        if not self._nums_waiting[tenant]:
            del self._nums_waiting[tenant], self._last_turns[tenant]

    def _next(self, tenant: str) -> int:
        return max(self._turn, self._last_turns.get(tenant, 0)) + 1
