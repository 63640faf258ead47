"""Says what each part of a mesh is doing now, by asking it; changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from mesh.plan import Part, Plan, load_plan
from mesh.probe import probe
from mesh.state import StateFolder
from mesh.supervisord import ProcessState, Supervisor


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One line of the status. state: ready, starting, not_ready, restarting, stopping, failed, stopped or lost."""

    name: str
    kind: str
    replica: int
    pid: int | None
    state: str
    restarts: int
    http: str | None
    grpc: str | None
    metrics: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """The whole mesh; edge is None and there are no parts when none was started."""

    edge: str | None
    parts: tuple[PartStatus, ...]


def mesh_status(state: StateFolder) -> MeshStatus:
    """Ask every part. A mesh whose supervisor is gone has its parts `lost`, with no pid."""
    plan = load_plan(state.plan)
    if plan is None:
        return MeshStatus(None, ())
    supervisor = Supervisor(state)
    processes = supervisor.states() if supervisor.is_running() else {}
    restarts: dict[str, int] = json.loads(state.restarts.read_text()) if state.restarts.exists() else {}
    return MeshStatus(plan.edge, tuple(_part_status(part, plan, processes, restarts) for part in plan.parts))


def _part_status(
    part: Part, plan: Plan, processes: Mapping[str, ProcessState], restarts: Mapping[str, int]
) -> PartStatus:
    process = processes.get(part.name)
    return PartStatus(
        name=part.name,
        kind=part.kind,
        replica=part.replica,
        pid=process.pid if process else None,
        state=_state(part, plan, process),
        restarts=restarts.get(part.name, 0),
        http=part.http,
        grpc=part.grpc,
        metrics=part.metrics,
        model=part.model,
    )


def _state(part: Part, plan: Plan, process: ProcessState | None) -> str:
    if process is None:
        return "lost"
    words = {"BACKOFF": "restarting", "EXITED": "restarting", "FATAL": "failed", "STOPPED": "stopped"}
    words["STOPPING"] = "stopping"
    return words.get(process.state) or probe(part, plan).value


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its children; pages they share count once for each."""
    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0
