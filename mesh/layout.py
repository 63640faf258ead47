"""Turns what the user asked for into the plan of a mesh: which processes, with which settings, on which ports."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from mesh import envoy, triton
from mesh.failure import MeshFailure
from mesh.plan import Model, Options, Part, Plan
from mesh.ports import BLOCK_LEN
from mesh.state import StateFolder

FIXED_PORTS: Final = 2  # Envoy's internal listener and admin
PORTS_PER_GATEWAY: Final = 2  # HTTP and gRPC
MAX_GATEWAYS: Final = 8
DRAIN_S: Final = 600  # as long as a gateway gives any request
LEAVE_S: Final = 2  # several times as long as Envoy takes to see that a gateway leaves
PORTS_PER_WORKER: Final = 3  # Triton's HTTP, gRPC and metrics
FIRST_WORKER: Final = FIXED_PORTS + PORTS_PER_GATEWAY * MAX_GATEWAYS  # workers come and go, so their places are fixed
MAX_WORKERS: Final = (BLOCK_LEN - FIRST_WORKER) // PORTS_PER_WORKER
THREADS: Final = "OMP_NUM_THREADS"  # of a worker's environment
WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True)
class Layout:
    """A mesh of these options in this folder, on the ports from first_port on."""

    options: Options
    state: StateFolder
    first_port: int

    @classmethod
    def of(cls, plan: Plan, state: StateFolder) -> Self:
        """The layout that made a plan."""
        return cls(plan.options, state, int(plan.admin.rpartition(":")[2]) - 1)

    def plan(self) -> Plan:
        """All parts. Raises MeshFailure if two would have one name, or there are too many."""
        wanted = [(model, replica) for model in self.options.models for replica in range(self._num_replicas(model))]
        check_num_workers(len(wanted))
        workers = [
            self.worker(slot, model, replica, self._num_replicas(model)) for slot, (model, replica) in enumerate(wanted)
        ]
        gateways = [self._gateway(replica) for replica in range(self.options.num_gateways)]
        parts = (*workers, *gateways, self._envoy())
        names = [part.name for part in parts]
        for name in names:
            if names.count(name) > 1:
                raise MeshFailure(f"two parts would be called {name!r}; give the models ids that differ more")
        return Plan(options=self.options, edge=self._edge_url(), admin=f"127.0.0.1:{self._admin_port}", parts=parts)

    def envoy_config(self) -> envoy.EnvoyConfig:
        """What Envoy must know of the other parts."""
        endpoint = self.options.collector
        return envoy.EnvoyConfig(
            edge_host=self.options.host,
            edge_port=self.options.port,
            internal_port=self._internal_port,
            admin_port=self._admin_port,
            gateway_http=[http for http, _ in self._gateway_ports],
            gateway_grpc=[grpc for _, grpc in self._gateway_ports],
            models=[route_of(model, self.state) for model in self.options.models],
            limits=self.options.limits,
            endpoints_folder=self.state.endpoints,
            collector=None if endpoint is None else envoy.Collector.at(endpoint),
        )

    def worker_ports(self, slot: int) -> tuple[int, int, int]:
        """HTTP, gRPC and metrics port of the worker in a slot, 0 to MAX_WORKERS - 1."""
        first = self.first_port + FIRST_WORKER + PORTS_PER_WORKER * slot
        return first, first + 1, first + 2

    def free_slots(self, parts: Iterable[Part]) -> list[int]:
        """Slots that none of these parts is in."""
        taken = {part.http for part in parts}
        return [slot for slot in range(MAX_WORKERS) if _http_url(self.worker_ports(slot)[0]) not in taken]

    def _num_replicas(self, model: Model) -> int:
        return self.options.replicas.get(model.kind, 1)

    @property
    def _internal_port(self) -> int:
        return self.first_port

    @property
    def _admin_port(self) -> int:
        return self.first_port + 1

    @property
    def _gateway_ports(self) -> list[tuple[int, int]]:
        """HTTP and gRPC port of each gateway."""
        first = self.first_port + FIXED_PORTS
        return [(first + 2 * replica, first + 2 * replica + 1) for replica in range(self.options.num_gateways)]

    def _edge_url(self) -> str:
        host = WILDCARDS.get(self.options.host, self.options.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.options.port}"

    def _envoy(self) -> Part:
        return Part(
            name="envoy",
            kind="envoy",
            replica=0,
            command=envoy.parent_command(self.state.envoy_config, self.state.envoy_base_id),
            http=self._edge_url(),
            grpc=self._edge_url().removeprefix("http://"),
            metrics=f"http://127.0.0.1:{self._admin_port}/stats/prometheus",
        )

    def _gateway(self, replica: int) -> Part:
        http_port, grpc_port = self._gateway_ports[replica]
        http, grpc = f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
        environment = {
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_HTTP_PORT": str(http_port),
            "GATEWAY_GRPC_PORT": str(grpc_port),
            "GATEWAY_UPSTREAM": f"127.0.0.1:{self._internal_port}",
            "GATEWAY_MAX_BODY_BYTES": str(self.options.limits.max_body_bytes),
            "GATEWAY_MODELS": json.dumps([{"id": model.id, "kind": model.kind} for model in self.options.models]),
        }
        if self.options.num_gateways > 1:  # while one leaves, others take its requests, however long its answers take
            environment |= {"GATEWAY_LEAVE_S": str(LEAVE_S), "GATEWAY_DRAIN_TIMEOUT_S": str(DRAIN_S)}
        if self.options.database_url is not None:
            environment["GATEWAY_DATABASE_URL"] = self.options.database_url
        command = ("python3", "-m", "services.gateway")
        return Part(f"gateway-{replica}", "gateway", replica, command, environment, http, grpc, f"{http}/metrics")

    def worker(self, slot: int, model: Model, replica: int, num_replicas: int) -> Part:
        """A worker of a model that has num_replicas of them, which share the processors among each other."""
        http, grpc, metrics = self.worker_ports(slot)
        shm_prefix = f"{self.state.shm_prefix}{slot}_"
        return Part(
            name=f"{_slug(model.id)}-{replica}",
            kind=model.kind,
            replica=replica,
            command=triton.command(model.kind, (http, grpc, metrics), shm_prefix),
            environment={**triton.environment(), **_worker_environment(self.options, model, share(num_replicas))},
            http=_http_url(http),
            grpc=f"127.0.0.1:{grpc}",
            metrics=f"{_http_url(metrics)}/metrics",
            model=model.id,
            shm_prefix=shm_prefix,
        )


def share(num_replicas: int) -> int:
    """How many threads each of so many workers of a model computes with."""
    return max(1, len(os.sched_getaffinity(0)) // num_replicas)


def check_num_workers(num_workers: int) -> None:
    """Raise MeshFailure if a mesh has no ports for so many."""
    if num_workers > MAX_WORKERS:
        raise MeshFailure(f"{num_workers} workers are wanted, and a mesh has ports for {MAX_WORKERS}")


def route_of(model: Model, state: StateFolder) -> envoy.ModelRoute:
    """Envoy's names for one model."""
    cluster = f"{model.kind}-{_slug(model.id)}"
    return envoy.ModelRoute(model.id, cluster, state.endpoints / f"{cluster}.json", model.kind == "chat")


def _worker_environment(options: Options, model: Model, num_threads: int) -> dict[str, str]:
    prefix = model.kind.upper()
    environment = {
        f"{prefix}_MODEL_ID": model.id,
        f"{prefix}_MODEL_PATH": model.path,
        f"{prefix}_DTYPE": options.dtypes[model.kind],
        # Threads that spin at a barrier starve the gateway and Envoy on a small machine.
        THREADS: str(num_threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if options.max_model_len is not None and model.kind == "chat":
        environment["CHAT_MAX_MODEL_LEN"] = str(options.max_model_len)
    return environment


def _slug(model_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", model_id)


def _http_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
