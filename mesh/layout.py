"""Turns what the user asked for into the plan of a mesh: which processes, with which settings, on which ports."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mesh import envoy, triton
from mesh.failure import MeshFailure
from mesh.plan import Model, Options, Part, Plan
from mesh.state import StateFolder

FIXED_PORTS: Final = 2  # Envoy's internal listener and admin
PORTS_PER_GATEWAY: Final = 2  # HTTP and gRPC
LEAVE_S: Final = 2  # several times as long as Envoy takes to see that a gateway leaves
PORTS_PER_WORKER: Final = 3  # Triton's HTTP, gRPC and metrics
WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


def num_ports(options: Options) -> int:
    """How many ports on loopback the mesh needs beside its edge."""
    return FIXED_PORTS + PORTS_PER_GATEWAY * options.num_gateways + PORTS_PER_WORKER * len(options.models)


@dataclass(frozen=True, slots=True)
class Layout:
    """A mesh of these options in this folder, on the ports from first_port on."""

    options: Options
    state: StateFolder
    first_port: int

    def plan(self) -> Plan:
        """All parts. Raises MeshFailure if two would have one name."""
        workers = [self._worker(index, model) for index, model in enumerate(self.options.models)]
        gateways = [self._gateway(replica) for replica in range(self.options.num_gateways)]
        parts = (*workers, *gateways, self._envoy())
        names = [part.name for part in parts]
        for name in names:
            if names.count(name) > 1:
                raise MeshFailure(f"two parts would be called {name!r}; give the models ids that differ more")
        return Plan(options=self.options, edge=self._edge_url(), admin=f"127.0.0.1:{self._admin_port}", parts=parts)

    def envoy_config(self) -> envoy.EnvoyConfig:
        """What Envoy must know of the other parts."""
        return envoy.EnvoyConfig(
            edge_host=self.options.host,
            edge_port=self.options.port,
            internal_port=self._internal_port,
            admin_port=self._admin_port,
            gateway_http=[http for http, _ in self._gateway_ports],
            gateway_grpc=[grpc for _, grpc in self._gateway_ports],
            models=[self.route(model) for model in self.options.models],
            endpoints_folder=self.state.endpoints,
        )

    def route(self, model: Model) -> envoy.ModelRoute:
        """Envoy's names for one model."""
        cluster = f"{model.kind}-{_slug(model.id)}"
        return envoy.ModelRoute(model.id, cluster, self.state.endpoints / f"{cluster}.json")

    def worker_ports(self, index: int) -> tuple[int, int, int]:
        """HTTP, gRPC and metrics port of the worker of the index-th model."""
        gateways = PORTS_PER_GATEWAY * self.options.num_gateways
        first = self.first_port + FIXED_PORTS + gateways + PORTS_PER_WORKER * index
        return first, first + 1, first + 2

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
            command=envoy.command(self.state.envoy_config),
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
            "GATEWAY_MODELS": json.dumps([{"id": model.id, "kind": model.kind} for model in self.options.models]),
        }
        if self.options.num_gateways > 1:  # while one leaves, others take its requests
            environment["GATEWAY_LEAVE_S"] = str(LEAVE_S)
        if self.options.database_url is not None:
            environment["GATEWAY_DATABASE_URL"] = self.options.database_url
        command = ("python3", "-m", "services.gateway")
        return Part(f"gateway-{replica}", "gateway", replica, command, environment, http, grpc, f"{http}/metrics")

    def _worker(self, index: int, model: Model) -> Part:
        http, grpc, metrics = self.worker_ports(index)
        shm_prefix = f"{self.state.shm_prefix}{index}_"
        return Part(
            name=f"{_slug(model.id)}-0",
            kind=model.kind,
            replica=0,
            command=triton.command(model.kind, (http, grpc, metrics), shm_prefix),
            environment={**triton.environment(), **_worker_environment(self.options, model)},
            http=f"http://127.0.0.1:{http}",
            grpc=f"127.0.0.1:{grpc}",
            metrics=f"http://127.0.0.1:{metrics}/metrics",
            model=model.id,
            shm_prefix=shm_prefix,
        )


def _worker_environment(options: Options, model: Model) -> dict[str, str]:
    prefix = model.kind.upper()
    environment = {
        f"{prefix}_MODEL_ID": model.id,
        f"{prefix}_MODEL_PATH": model.path,
        f"{prefix}_DTYPE": options.dtypes[model.kind],
        # Threads that spin at a barrier starve the gateway and Envoy on a small machine.
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if options.max_model_len is not None and model.kind == "chat":
        environment["CHAT_MAX_MODEL_LEN"] = str(options.max_model_len)
    return environment


def _slug(model_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", model_id)


def worker_ports_of(parts: Sequence[Part], model_id: str) -> list[int]:
    """gRPC ports of all workers of a model."""
    return [int(part.grpc.rpartition(":")[2]) for part in parts if part.model == model_id and part.grpc]
