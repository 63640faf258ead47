"""Restarts parts of a running mesh one after the other, so that others serve meanwhile."""

import time
from collections.abc import Callable, Iterable
from typing import Final

import psutil

from mesh import envoy
from mesh.drain import drain, listed_ports, with_leaving
from mesh.failure import MeshFailure
from mesh.launch import running_plan
from mesh.layout import Layout
from mesh.plan import Part, Plan, save_plan
from mesh.probe import Health, envoy_epoch, probe
from mesh.state import StateFolder
from mesh.supervisord import Supervisor

READY_TIMEOUT_S: Final = 60.0
LOAD_TIMEOUT_S: Final = 1800.0  # of a worker's model
SEEN_S: Final = 1.5  # until Envoy, which asks once or twice a second, has seen a part that came back
POLL_S: Final = 0.1

Say = Callable[[str], None]


def restart(state: StateFolder, say: Say, *, workers: bool) -> None:
    """Stop and start each gateway, and before them each worker if asked; the next when the last is back.

    Then Envoy hands over to a new one, which reads its configuration as this version writes it.
    Raises MeshFailure if one does not come back.
    """
    plan = running_plan(state)
    if plan is None:
        raise MeshFailure(f"no mesh runs in {state.path}")
    for part in plan.workers if workers else ():
        if part.is_leaving:  # it goes anyway, and nobody would see it come back
            continue
        if len(plan.staying(str(part.model))) == 1:
            say(f"{part.name} is its model's only worker: requests are refused while it restarts")
        _restart_worker(part, plan, state)
        say(f"{part.name} was restarted")
    gateways = [part for part in plan.parts if part.kind == "gateway"]
    if len(gateways) == 1:
        say("there is one gateway only: requests are refused while it restarts (zhinao up --gateway 2)")
    for part in gateways:
        _wait_for_others(part, gateways, plan, state)
        say(f"draining {part.name}")
        _restart(part, plan, state, READY_TIMEOUT_S)  # it says that it leaves, and lets its answers end
        say(f"{part.name} was restarted")
        time.sleep(SEEN_S)
    if _num_envoys(state) > 1:
        say("the Envoy before the last restart ends now, with what its clients have not read yet")
    _hand_over_envoy(plan, state)
    say("envoy was restarted")


def _num_envoys(state: StateFolder) -> int:
    """More than one for some minutes after a hand-over; Envoy itself ends the older when a third one comes."""
    pid = Supervisor(state).states()["envoy"].pid
    return 0 if pid is None else len(psutil.Process(pid).children())


def _hand_over_envoy(plan: Plan, state: StateFolder) -> None:
    new = state.runtime / "envoy.new.yaml"
    new.write_text(envoy.render(Layout.of(plan, state).envoy_config()))
    envoy.check(new)
    new.rename(state.envoy_config)
    epoch, deadline_s = envoy_epoch(plan.admin), time.monotonic() + READY_TIMEOUT_S
    Supervisor(state).hang_up("envoy")
    while (now := envoy_epoch(plan.admin)) is None or now == epoch:
        if time.monotonic() > deadline_s:
            raise MeshFailure(
                f"no new Envoy served {READY_TIMEOUT_S:.0f} s after SIGHUP; see {state.logs / 'envoy.log'}"
            )
        time.sleep(POLL_S)


def _restart_worker(part: Part, plan: Plan, state: StateFolder) -> None:
    try:
        drain(with_leaving(plan, {part.name}), state)
        Supervisor(state).stop([part.name])
    finally:
        save_plan(plan, state.plan)
    _restart(part, plan, state, LOAD_TIMEOUT_S)
    time.sleep(SEEN_S)


def _wait_for_others(part: Part, parts: Iterable[Part], plan: Plan, state: StateFolder) -> None:
    """Those that are to serve meanwhile: supervisor may just be starting one that ended by itself."""
    absent = [each for each in parts if each is not part and not _is_back(each, plan, state)]
    for each in absent:
        _wait_until_back(each, plan, state, READY_TIMEOUT_S)
    if absent:
        time.sleep(SEEN_S)


def _restart(part: Part, plan: Plan, state: StateFolder, timeout_s: float) -> None:
    supervisor = Supervisor(state)
    supervisor.stop([part.name])
    supervisor.start_again(part.name)
    _wait_until_back(part, plan, state, timeout_s)


def _wait_until_back(part: Part, plan: Plan, state: StateFolder, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not _is_back(part, plan, state):
        if time.monotonic() > deadline_s:
            raise MeshFailure(f"{part.name} was not ready within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def _is_back(part: Part, plan: Plan, state: StateFolder) -> bool:
    is_listed = part.model is None or part.grpc_port in listed_ports(plan, state)
    return is_listed and probe(part, plan) is Health.READY
