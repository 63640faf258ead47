"""Describes a local mesh, its models, processes and ports, as plain data that survives on disk; starts nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from mesh.failure import MeshFailure
from mesh.files import write_atomically
from meshkit.settings import MAX_BODY_BYTES

ModelKind = Literal["chat", "embed", "rerank"]  # also the name of its model inside Triton
PartKind = Literal["envoy", "gateway", "chat", "embed", "rerank"]


@dataclass(frozen=True, slots=True)
class Model:
    """One served model: the id clients use and the checkpoint folder it is read from."""

    id: str
    kind: ModelKind
    path: str


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What Envoy lets in. requests_per_second: of all clients together; None sets no limit."""

    max_body_bytes: int = MAX_BODY_BYTES
    requests_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for. Two `up`s with equal options mean the same mesh."""

    host: str
    port: int
    models: tuple[Model, ...]
    dtypes: Mapping[ModelKind, str]  # number formats of weights
    max_model_len: int | None  # of chat models, in tokens; None is the checkpoint's own limit
    num_gateways: int = 1
    database_url: str | None = None  # of keys; None leaves it to the environment, and without one asks for no keys
    replicas: Mapping[ModelKind, int] = field(default_factory=dict[ModelKind, int])  # at the start; not named: 1
    autoscale: Mapping[ModelKind, int] = field(default_factory=dict[ModelKind, int])  # at most; not named: none
    limits: EdgeLimits = field(default_factory=EdgeLimits)
    collector: str | None = None  # URL that spans go to over OTLP/HTTP


@dataclass(frozen=True, slots=True)
class Part:
    """One supervised process. http, metrics: URLs, the latter of Prometheus text; grpc: host:port; model: served id."""

    name: str
    kind: PartKind
    replica: int
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    http: str | None = None
    grpc: str | None = None
    metrics: str | None = None
    model: str | None = None
    shm_prefix: str | None = None  # of the names of its files in /dev/shm
    is_leaving: bool = False  # gets no new work, and is stopped when its answers have ended

    @property
    def grpc_port(self) -> int:
        """The port of grpc."""
        return int(str(self.grpc).rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole mesh."""

    options: Options
    edge: str  # URL under which clients reach it from this machine
    admin: str  # host:port of Envoy's admin
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """The part of that name; KeyError if there is none."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(f"no part {name!r}; there are {', '.join(part.name for part in self.parts)}")

    @property
    def workers(self) -> tuple[Part, ...]:
        """The parts that carry a model."""
        return tuple(part for part in self.parts if part.model is not None)

    @property
    def leaving(self) -> tuple[Part, ...]:
        """The workers that are to be stopped."""
        return tuple(part for part in self.parts if part.is_leaving)

    def replicas(self, model_id: str) -> tuple[Part, ...]:
        """The workers of a model."""
        return tuple(part for part in self.parts if part.model == model_id)

    def staying(self, model_id: str) -> tuple[Part, ...]:
        """Those of them that do not leave."""
        return tuple(part for part in self.replicas(model_id) if not part.is_leaving)


_PLAN = TypeAdapter(Plan)


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan as JSON, whole or not at all."""
    write_atomically(path, _PLAN.dump_json(plan, indent=2))


def load_plan(path: Path) -> Plan | None:
    """Read what save_plan wrote; None if there is no such file. Raises MeshFailure if another version wrote it."""
    if not path.exists():
        return None
    try:
        return _PLAN.validate_json(path.read_bytes())
    except ValidationError:
        raise MeshFailure(
            f"{path} is of another version; zhinao down --state {path.parents[1]} clears it"
        ) from None  # its text holds values
