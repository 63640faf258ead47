"""Restarts the gateways of a running mesh one after the other, so that others serve meanwhile; no model is touched."""

import time
from collections.abc import Callable
from typing import Final

from mesh.failure import MeshFailure
from mesh.launch import running_plan
from mesh.plan import Part, Plan
from mesh.probe import Health, probe
from mesh.state import StateFolder
from mesh.supervisord import Supervisor

READY_TIMEOUT_S: Final = 60.0
SEEN_S: Final = 1.5  # until Envoy, which asks twice a second, has seen a gateway that came back
POLL_S: Final = 0.1


def restart_gateways(state: StateFolder, say: Callable[[str], None]) -> None:
    """Stop and start each gateway, the next when the last is ready. Raises MeshFailure if one does not come back."""
    plan = running_plan(state)
    if plan is None:
        raise MeshFailure(f"no mesh runs in {state.path}")
    gateways = [part for part in plan.parts if part.kind == "gateway"]
    if len(gateways) == 1:
        say("there is one gateway only: requests are refused while it restarts (zhinao up --gateway 2)")
    supervisor = Supervisor(state)
    for part in gateways:
        supervisor.stop([part.name])  # it says that it leaves, and lets its answers end
        supervisor.start_again(part.name)
        _wait_until_ready(part, plan)
        say(f"{part.name} was restarted")
        time.sleep(SEEN_S)


def _wait_until_ready(part: Part, plan: Plan) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while probe(part, plan) is not Health.READY:
        if time.monotonic() > deadline_s:
            raise MeshFailure(f"{part.name} was not ready {READY_TIMEOUT_S:.0f} s after its restart")
        time.sleep(POLL_S)
