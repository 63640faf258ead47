"""Says what each part of a mesh is doing now, by asking it; changes nothing."""

from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from mesh.drain import listed_ports
from mesh.layout import THREADS
from mesh.load import Load, read_load
from mesh.plan import Part, Plan, load_plan
from mesh.probe import Health, probe
from mesh.state import StateFolder
from mesh.supervisord import ProcessState, Supervisor


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One line of the status.

    state: ready, starting, not_ready, leaving, restarting, stopping, failed, stopped or lost.
    load: of a worker that answers. serving: whether Envoy is told to give it calls. threads: that it computes with.
    """

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
    threads: int | None
    serving: bool | None
    load: Load | None


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
    restarts = state.read_restarts()
    ports = listed_ports(plan, state)

    def describe(part: Part) -> PartStatus:
        return _part_status(part, plan, processes, restarts, ports)

    with ThreadPoolExecutor(len(plan.parts)) as threads:  # what is stuck takes its time to show
        return MeshStatus(plan.edge, tuple(threads.map(describe, plan.parts)))


def _part_status(
    part: Part, plan: Plan, processes: Mapping[str, ProcessState], restarts: Mapping[str, int], serving: Set[int]
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
        threads=int(part.environment[THREADS]) if part.model else None,
        serving=part.grpc_port in serving if part.model else None,
        load=read_load(part.metrics) if part.model else None,
    )


def _state(part: Part, plan: Plan, process: ProcessState | None) -> str:
    if process is None:
        return "lost"
    words = {"BACKOFF": "restarting", "EXITED": "restarting", "FATAL": "failed", "STOPPED": "stopped"}
    words["STOPPING"] = "stopping"
    if (word := words.get(process.state)) is not None:
        return word
    health = probe(part, plan)
    return "leaving" if part.is_leaving and health is Health.READY else health.value


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its children; pages they share count once for each."""
    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0
