"""Brings a mesh down in the order of a drain, and leaves nothing behind whatever state it was in."""

import contextlib
import http.client
import os
import time
from collections.abc import Callable, Generator
from typing import Final

import psutil

from mesh.envoy_parent import remove_envoy_memory
from mesh.failure import MeshFailure
from mesh.plan import Plan, load_plan
from mesh.state import MARKER, StateFolder
from mesh.supervisord import AUTOSCALER, WATCHDOG, Supervisor
from mesh.triton import remove_shared_memory

# How long an idle Triton gets to leave. After a thousand callers had left in the middle of things, one waited its whole
# exit timeout of 20 s though nothing was in progress: likely one of them left while its last word was being written.
IDLE_EXIT_S: Final = 8.0
PATIENCE_S: Final = 30.0  # how long answers may take to end when the whole mesh goes
CUT_OFF_S: Final = 8.0  # then, how long a gateway gets to end without them
LEAVE_S: Final = 5.0  # how long supervisord and dying stubs get to end by themselves
EXEC_S: Final = 0.2  # from supervisord's first answer to the exec of its last part


def bring_down(state: StateFolder, say: Callable[[str], None]) -> None:
    """Stop the mesh of this folder, if there is one, and remove what a killed one left; safe to repeat."""
    try:
        plan = load_plan(state.plan)
    except MeshFailure:
        plan = None  # without a plan there is no drain; what runs is found by its marker
    supervisor = Supervisor(state)
    patience_s = 0.0
    if plan is not None and supervisor.is_running():
        _drain(plan, supervisor, say)
        patience_s = LEAVE_S
    killed = _end_leftovers(state, patience_s)
    if killed:
        say(f"killed what was left: {', '.join(killed)}")
    remove_envoy_memory(state.envoy_base_id)
    regions = remove_shared_memory(state.shm_prefix)
    if regions:
        say(f"removed {regions} stale shared-memory files")
    state.clear()
    say("the mesh is down" if plan is not None or killed else "no mesh was running")


def stop_autoscaler(state: StateFolder) -> bool:
    """End the mesh's autoscaler, if there is one: it holds the mesh while it scales, for which `down` must not wait.

    Returns whether there was one.
    """
    supervisor = Supervisor(state)
    if not supervisor.is_running() or AUTOSCALER not in supervisor.states():
        return False
    supervisor.stop([AUTOSCALER])
    return True


@contextlib.contextmanager
def without_autoscaler(state: StateFolder) -> Generator[None]:
    """Hold the mesh, whose autoscaler ends; who cannot hold it starts that again. Raises MeshFailure, as the lock."""
    was_there = stop_autoscaler(state)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(state.lock())
        except MeshFailure:
            if was_there:
                with contextlib.suppress(MeshFailure):  # another command ends the mesh just now
                    Supervisor(state).start_again(AUTOSCALER)
            raise
        yield


def _drain(plan: Plan, supervisor: Supervisor, say: Callable[[str], None]) -> None:
    """No new requests, then the gateway with its streams, then the workers, then Envoy.

    The workers go after the gateway has closed its streams: an open one keeps Triton from leaving.
    """
    time.sleep(EXEC_S)  # after Ctrl-C early in a start: a SIGTERM before a part's exec is lost, and SIGKILL comes late
    supervisor.stop([WATCHDOG, AUTOSCALER])  # they would take a stopping worker for a sick one, or a missing one
    _close_edge(plan)
    say("stopping the gateway; running answers may finish")
    gateways = [part.name for part in plan.parts if part.kind == "gateway"]
    supervisor.stop(gateways, patience_s=PATIENCE_S, at_most_s=PATIENCE_S + CUT_OFF_S)
    say("stopping the workers and Envoy")
    supervisor.stop([part.name for part in plan.workers], at_most_s=IDLE_EXIT_S)
    supervisor.shutdown()


def _close_edge(plan: Plan) -> None:
    """Have Envoy refuse new connections at the edge; one that is already dead refuses them anyway."""
    connection = http.client.HTTPConnection(plan.admin, timeout=2.0)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/drain_listeners?inboundonly")
        connection.getresponse().read()
    connection.close()


def _end_leftovers(state: StateFolder, patience_s: float) -> list[str]:
    """Wait a little for the mesh's processes to end, then kill the rest and name them."""
    deadline_s = time.monotonic() + patience_s
    while (left := mesh_processes(state)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    names = [f"{process.name()} ({process.pid})" for process in left]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=LEAVE_S)
    return names


def mesh_processes(state: StateFolder) -> list[psutil.Process]:
    """Every process that carries this mesh's marker in its environment, by whatever way it was started."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            carries_marker = process.environ().get(MARKER) == str(state.path)
            if carries_marker and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
