"""Decides how many workers a model needs, by the algorithm and the rules of Kubernetes' autoscaler; reads no clock."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from mesh.plan import ModelKind

TOLERANCE: Final = 0.1  # a mean this near its target changes nothing
UP_PERIOD_S: Final = 30.0  # in which the number may double, or grow by two
DOWN_PERIOD_S: Final = 300.0  # in which it may halve, and which nothing must have spoken against it


@dataclass(frozen=True, slots=True)
class Rule:
    """The mean of a metric over a model's workers, and what it should be."""

    metric: str
    target: float


# Queues tell at once that there are too few workers, but not how many may go: with just enough of them nothing waits.
# And not before there are too few: a worker takes seconds to start, in which a load that rises needs what is left.
_BUSY: Final = Rule("mesh_busy_ratio", 0.7)

RULES: Final[Mapping[ModelKind, Sequence[Rule]]] = MappingProxyType(
    {
        "chat": (Rule("mesh_tokens_waiting", 8192), Rule("vllm:kv_cache_usage_perc", 0.8)),
        "embed": (Rule("mesh_queue_age_seconds", 0.5), _BUSY),
        "rerank": (Rule("mesh_inputs_waiting", 256), _BUSY),
    }
)


@dataclass(slots=True)
class Autoscaler:
    """One model's. least, most: workers. up_period_s, down_period_s: see UP_PERIOD_S. Times are of any clock.

    Source: Kubernetes, Horizontal Pod Autoscaling, "Algorithm details" and "Configurable scaling behavior".
    """

    rules: Sequence[Rule]
    least: int
    most: int
    up_period_s: float = UP_PERIOD_S
    down_period_s: float = DOWN_PERIOD_S
    _wanted: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])  # in the last down_period_s
    _changes: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])  # and by how many they changed
    _decided: int = 0  # the last change's new number; 0 if the last look changed nothing

    def decide(self, pages: Sequence[Mapping[str, float]], current: int, now_s: float) -> int:
        """How many there should be now. pages: metrics of the workers that answer. current: how many there are."""
        if self._changes and self._decided not in (0, current):  # it was not done, or in part
            decided_s, change = self._changes.pop()
            self._changes.append((decided_s, change + current - self._decided))
        if not self._wanted:
            self._wanted.append((now_s, current))  # who begins to look knows nothing against those there are
        wish = self._wish(pages, current)
        self._wanted.append((now_s, wish))
        for past in (self._wanted, self._changes):
            while past and past[0][0] < now_s - self.down_period_s:
                past.popleft()
        if wish < current:  # up at once, down only if nothing asked for more meanwhile
            wish = min(current, max(number for _, number in self._wanted))
        wish = max(self.least, min(self.most, self._within_pace(wish, current, now_s)))
        self._decided = wish if wish != current else 0
        if self._decided:
            self._changes.append((now_s, wish - current))
        return wish

    def _wish(self, pages: Sequence[Mapping[str, float]], current: int) -> int:
        """The most that any rule asks for."""
        if not pages:
            return current
        wishes = [self.least]
        for rule in self.rules:
            ratio = _ratio([page.get(rule.metric, 0.0) / rule.target for page in pages], current)
            wishes.append(current if abs(ratio - 1) <= TOLERANCE else math.ceil(current * ratio))
        return max(wishes)

    def _within_pace(self, wish: int, current: int, now_s: float) -> int:
        added = sum(change for at_s, change in self._changes if change > 0 and at_s > now_s - self.up_period_s)
        removed = -sum(change for _, change in self._changes if change < 0)
        most = max(2 * (current - added), current - added + 2)
        least = (current + removed) // 2
        return max(least, min(most, wish))


def _ratio(loads: Sequence[float], current: int) -> float:
    """The mean of what workers bear, in what each should. Those that do not answer, because they still load or are
    lost, are taken for idle where more are wanted, and for just busy enough where fewer are.
    """
    of_some = sum(loads) / len(loads)
    num_missing = current - len(loads)
    ratio = (sum(loads) + (num_missing if of_some < 1 else 0)) / current
    return 1.0 if (of_some < 1) != (ratio < 1) else ratio
