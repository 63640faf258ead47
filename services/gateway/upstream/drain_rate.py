"""Decides how long a refused client has to wait: from how fast requests end, and how many were refused before it."""

from collections import deque
from typing import Final

_WINDOW_S: Final = 10.0  # over which ends are counted; longer than a batch of answers takes to end together
_ENOUGH_ENDS: Final = 8  # to remember the pace of
LONGEST_S: Final = 60.0  # what is promised at most; OpenAI's clients obey no more than 120 s


class DrainRate:
    """The ends of one model's requests and the promises made to refused clients. Times are of any clock, in seconds.

    Each refused client is told its own time, one after the other at the pace at which places become free, so that those
    who come back as told find one each, and not all at the same moment. Those who do not come back hold up nobody:
    their time passes.
    """

    def __init__(self) -> None:
        self._num_running = 0
        self._busy_since_s = 0.0
        self._known_pace_s = 1.0  # seconds a place of an earlier time; at first a guess
        self._ends_s: deque[float] = deque(maxlen=4096)
        self._promises_s: deque[float] = deque()  # ascending

    def begin(self, now_s: float) -> None:
        """A request was passed to the worker."""
        if self._num_running == 0:
            self._busy_since_s = now_s
        self._num_running += 1

    def end(self, now_s: float, *, served: bool) -> None:
        """It ended, well or not. served: it had a place, which is free now."""
        self._num_running -= 1
        if served:
            self._ends_s.append(now_s)

    def promise(self, now_s: float) -> float:
        """Seconds until a place is likely free for the client that was refused just now, at most LONGEST_S."""
        while self._promises_s and self._promises_s[0] <= now_s:
            self._promises_s.popleft()
        last_s = self._promises_s[-1] if self._promises_s else now_s
        due_s = min(last_s + self._seconds_a_place(now_s), now_s + LONGEST_S)
        self._promises_s.append(max(due_s, last_s))
        return due_s - now_s

    def _seconds_a_place(self, now_s: float) -> float:
        start_s = max(now_s - _WINDOW_S, self._busy_since_s)
        while self._ends_s and self._ends_s[0] < start_s:
            self._ends_s.popleft()
        num_ends = len(self._ends_s)
        pace_s = (now_s - start_s + self._known_pace_s) / (num_ends + 1)  # what was known counts as one end
        if num_ends >= _ENOUGH_ENDS:
            self._known_pace_s = pace_s
        return pace_s
