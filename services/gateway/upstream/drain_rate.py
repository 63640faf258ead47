"""Measures how fast places in a model's workers become free: from how fast its requests end."""

from collections import deque
from typing import Final

_WINDOW_S: Final = 10.0  # over which ends are counted; longer than a batch of answers takes to end together
_ENOUGH_ENDS: Final = 8  # to remember the pace of
_GUESS_S: Final = 2.0  # how long a request takes, as long as nothing is known


class DrainRate:
    """The ends of one model's requests. Times are of any clock, in seconds."""

    def __init__(self) -> None:
        self.num_running = 0
        self._busy_since_s = 0.0
        self._known_pace_s: float | None = None  # seconds a place of an earlier time
        self._ends_s: deque[float] = deque(maxlen=4096)

    def begin(self, now_s: float) -> None:
        """A request was passed to the worker."""
        if self.num_running == 0:
            self._busy_since_s = now_s
        self.num_running += 1

    def end(self, now_s: float, *, served: bool) -> None:
        """It ended, well or not. served: it had a place, which is free now."""
        self.num_running -= 1
        if served:
            self._ends_s.append(now_s)

    def seconds_a_place(self, now_s: float) -> float:
        """How long it takes until the next place becomes free."""
        start_s = max(now_s - _WINDOW_S, self._busy_since_s)
        while self._ends_s and self._ends_s[0] < start_s:
            self._ends_s.popleft()
        num_ends = len(self._ends_s)
        if self._known_pace_s is None and num_ends < _ENOUGH_ENDS:
            return max(_GUESS_S, now_s - self._busy_since_s) / max(1, self.num_running)
        pace_s = (now_s - start_s + (self._known_pace_s or 0)) / (num_ends + 1)  # what was known counts as one end
        if num_ends >= _ENOUGH_ENDS:
            self._known_pace_s = pace_s
        return pace_s
