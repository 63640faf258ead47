"""Brings a mesh up: lays out its files, starts it, and waits until every part has really served."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mesh import envoy, triton
from mesh.failure import MeshFailure
from mesh.layout import Layout, route_of
from mesh.plan import Options, Part, Plan, load_plan, save_plan
from mesh.ports import BLOCK_LEN, check_edge, choose_block
from mesh.probe import Health, first_answer, get_ready, probe
from mesh.state import StateFolder
from mesh.supervisord import WATCHDOG, Supervisor, write_config

POLL_S: Final = 0.2
EDGE_TIMEOUT_S: Final = 30.0
LOG_TAIL_LINES: Final = 30
LOAD_TIMEOUT_S: Final = 1800.0  # no one waits longer for a model to load
ENDED: Final = {"BACKOFF", "EXITED", "FATAL"}


def running_plan(state: StateFolder) -> Plan | None:
    """The plan of the mesh that runs in this folder, or None."""
    plan = load_plan(state.plan)
    return plan if plan is not None and Supervisor(state).is_running() else None


def start(options: Options, state: StateFolder) -> Plan:
    """Write the files of a new mesh and start all its parts; returns before any of them is ready."""
    check_edge(options.host, options.port)
    layout = Layout(options, state, choose_block(options.port, BLOCK_LEN))  # all of it: workers may come later
    plan = layout.plan()
    state.make()
    triton.lay_out(state.runtime, triton.OUR_MODELS)
    state.envoy_config.write_text(envoy.render(layout.envoy_config()))
    for model in options.models:
        envoy.write_endpoints(route_of(model, state), [])  # the watchdog adds who is ready
    save_plan(plan, state.plan)
    write_config(plan, state)
    Supervisor(state).start()
    return plan


def wait_until_ready(
    plan: Plan, state: StateFolder, on_ready: Callable[[str], None], *, key: str | None = None
) -> dict[str, str]:
    """Return when every part answers its probe and every model has really computed; on_ready is told each part's name.
    key: of a client, where the mesh asks for one.

    Returns the path of the API that each model answered at. Raises MeshFailure, with the end of the part's log, as
    soon as one ends: what does not survive its own start would not survive the next one.
    """
    wait_for_parts(plan.parts, plan, state, on_ready)
    _wait_for_edge(plan)
    return {model.id: first_answer(plan.edge, model, key=key) for model in plan.options.models}


def wait_for_parts(parts: Sequence[Part], plan: Plan, state: StateFolder, on_ready: Callable[[str], None]) -> None:
    """Return when each of these parts, which were just started, answers its probe. Raises as wait_until_ready."""
    supervisor = Supervisor(state)
    pending = {part.name: part for part in parts}
    watched = {*pending, WATCHDOG}
    pids: dict[str, int] = {}
    deadline_s = time.monotonic() + LOAD_TIMEOUT_S
    while pending:
        for name, process in supervisor.states().items():
            was_replaced = process.pid is not None and pids.setdefault(name, process.pid) != process.pid
            if name in watched and (process.state in ENDED or was_replaced):
                raise MeshFailure(_report(f"{name} ended during its start", state.logs / f"{name}.log"))
        for name, part in list(pending.items()):
            if probe(part, plan) is Health.READY:
                del pending[name]
                on_ready(name)
        if time.monotonic() > deadline_s:
            name = next(iter(pending))
            log = state.logs / f"{name}.log"
            raise MeshFailure(_report(f"{name} was not ready after {LOAD_TIMEOUT_S:.0f} s", log))
        time.sleep(POLL_S)


def _wait_for_edge(plan: Plan) -> None:
    """Return when Envoy, which asks gateways and workers whether they serve, has seen some of each that do."""
    deadline_s = time.monotonic() + EDGE_TIMEOUT_S
    while plan.workers and get_ready(plan.edge.removeprefix("http://")) is not Health.READY:
        if time.monotonic() > deadline_s:
            raise MeshFailure(f"{plan.edge} was not ready {EDGE_TIMEOUT_S:.0f} s after its parts")
        time.sleep(POLL_S)


def _report(headline: str, log: Path) -> str:
    text = log.read_text(errors="replace") if log.exists() else ""
    reason = triton.load_failure(text)
    tail = "\n".join(f"  | {line}" for line in text.splitlines()[-LOG_TAIL_LINES:])
    return f"{headline}{f': {reason}' if reason else ''}\nThe end of {log}:\n{tail or '  | (nothing)'}"
