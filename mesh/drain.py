"""Takes workers out of service so that no request notices: out of Envoy's lists, then until answers have ended."""

import time
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

from mesh import envoy
from mesh.layout import route_of
from mesh.load import read_load
from mesh.plan import Part, Plan, save_plan
from mesh.state import StateFolder

DRAIN_S: Final = 120.0  # how long a worker's answers may take to end before it is told to stop
UNLISTED_S: Final = 10.0  # how long the watchdog may take to see that a worker leaves
SEEN_S: Final = 1.0  # until Envoy has seen it too
POLL_S: Final = 0.2


def is_busy(worker: Part) -> bool:
    """Whether it has answers to give."""
    load = read_load(worker.metrics)
    return load is not None and load.running + load.waiting > 0


@dataclass(slots=True)
class _Leave:
    """Since when a worker leaves, and since when it is in no list of Envoy's."""

    began_s: float
    unlisted_s: float | None = None


@dataclass(slots=True)
class Drain:
    """Follows workers that leave, each from its own beginning. Answers that take too long are not waited for: a SIGTERM
    gives them Triton's own patience, and what breaks then, the gateway asks again.
    """

    is_busy: Callable[[Part], bool] = is_busy
    _leaves: dict[str, _Leave] = field(default_factory=dict[str, _Leave])

    def over(self, leaving: Sequence[Part], listed: Set[int], now_s: float) -> list[Part]:
        """Those that may be stopped now. leaving: all that leave. listed: ports that Envoy is told to call."""
        known = self._leaves
        self._leaves = {part.name: known.get(part.name, _Leave(now_s)) for part in leaving}
        return [part for part in leaving if self._is_over(part, self._leaves[part.name], listed, now_s)]

    def _is_over(self, part: Part, leave: _Leave, listed: Set[int], now_s: float) -> bool:
        if leave.unlisted_s is None and (part.grpc_port not in listed or now_s - leave.began_s >= UNLISTED_S):
            leave.unlisted_s = now_s
        waited_s = 0.0 if leave.unlisted_s is None else now_s - leave.unlisted_s
        return waited_s >= SEEN_S and (waited_s >= DRAIN_S or not self.is_busy(part))


def with_leaving(plan: Plan, names: Collection[str]) -> Plan:
    """The plan in which these are to leave."""
    parts = [replace(part, is_leaving=True) if part.name in names else part for part in plan.parts]
    return replace(plan, parts=tuple(parts))


def drain(plan: Plan, state: StateFolder) -> None:
    """Make the plan the running one and return when the workers that leave in it may be stopped."""
    save_plan(plan, state.plan)  # the watchdog sees it and tells Envoy
    follow = Drain()
    while len(follow.over(plan.leaving, listed_ports(plan, state), time.monotonic())) < len(plan.leaving):
        time.sleep(POLL_S)


def listed_ports(plan: Plan, state: StateFolder) -> set[int]:
    """The ports of all workers that Envoy is told to call."""
    return {port for model in plan.options.models for port in envoy.read_endpoints(route_of(model, state))}
