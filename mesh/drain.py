"""Takes workers out of service so that no request notices: out of Envoy's lists, then until answers have ended."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
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


def with_leaving(plan: Plan, names: Collection[str]) -> Plan:
    """The plan in which these are to leave."""
    parts = [replace(part, is_leaving=True) if part.name in names else part for part in plan.parts]
    return replace(plan, parts=tuple(parts))


def drain(plan: Plan, state: StateFolder) -> list[Part]:
    """Return, when they may be stopped, the workers that are to leave. Answers that take too long are not waited for:
    a SIGTERM gives them Triton's own patience, and what breaks then, the gateway asks again.
    """
    leaving = [part for part in plan.parts if part.is_leaving]
    save_plan(plan, state.plan)  # the watchdog sees it and tells Envoy
    ports = {part.grpc_port for part in leaving}
    _wait(lambda: not ports & listed_ports(plan, state), UNLISTED_S)
    time.sleep(SEEN_S)
    _wait(lambda: not any(_is_busy(part) for part in leaving), DRAIN_S)
    return leaving


def listed_ports(plan: Plan, state: StateFolder) -> set[int]:
    """The ports of all workers that Envoy is told to call."""
    return {port for model in plan.options.models for port in envoy.read_endpoints(route_of(model, state))}


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def _is_busy(part: Part) -> bool:
    load = read_load(part.metrics)
    return load is not None and load.running + load.waiting > 0
