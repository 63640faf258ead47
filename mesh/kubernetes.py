"""Decides the names and ports of a mesh in Kubernetes, and writes what k8s/ takes from sources of the local mesh."""

import re
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesh.envoy import Collector, NamedMesh, render_named
from mesh.plan import EdgeLimits

_ROOT: Final = Path(__file__).resolve().parent.parent
# A label begins with gen_ai_ too, but with gen_ai_request_ or gen_ai_operation_.
_SERIES: Final = re.compile(r"\b(up|(?:mesh_|vllm:|gen_ai_server_|gen_ai_client_)\w+)(\{)?")
_OF_THE_MESH: Final = 'app_kubernetes_io_part_of="zhinao-mesh"'  # a label of ours, which the ServiceMonitors add
_RULES: Final = """\
# The rules of deploy/monitoring/alerts.yaml, for the series of this mesh alone; written by `python -m mesh.kubernetes`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: { name: zhinao-mesh }
spec:
"""

MANIFESTS: Final = _ROOT / "k8s"
ALERTS: Final = _ROOT / "deploy" / "monitoring" / "alerts.yaml"
COLLECTOR: Final = "http://opentelemetry-collector.tracing:4318"  # the component tracing tells it to the other parts
MESH: Final = NamedMesh(
    edge_port=8360,
    internal_port=8361,
    admin_port=9901,
    ops_port=9902,
    gateway="gateway",
    gateway_http_port=8080,
    gateway_grpc_port=8081,
    worker_port=8001,  # Triton's own
    models=MappingProxyType({"zhinao-chat": "chat", "zhinao-embed": "embed", "zhinao-rerank": "rerank"}),
    limits=EdgeLimits(max_body_bytes=32 * 1024 * 1024),  # the most that gateways of any overlay take
)
_TLS: Final = replace(MESH, tls="/etc/envoy/certificate.yaml")
ENVOY_FILES: Final[Mapping[str, NamedMesh]] = MappingProxyType(  # which one Envoy reads, components decide
    {
        "envoy.yaml": MESH,
        "envoy-tls.yaml": _TLS,
        "envoy-traced.yaml": replace(MESH, collector=Collector.at(COLLECTOR)),
        "envoy-tls-traced.yaml": replace(_TLS, collector=Collector.at(COLLECTOR)),
    }
)


def files() -> dict[Path, str]:
    """What is written beside the manifests, by path; a test says whether what lies there is this."""
    written = {MANIFESTS / "base" / "envoy" / name: render_named(mesh) for name, mesh in ENVOY_FILES.items()}
    return {**written, MANIFESTS / "components" / "monitoring" / "prometheus-rule.yaml": prometheus_rule()}


def prometheus_rule() -> str:
    """The alert rules as an object of the Prometheus operator, whose Prometheus may watch more than this mesh."""
    lines = [line for line in ALERTS.read_text().splitlines(keepends=True) if not line.startswith("#")]
    narrowed = [_SERIES.sub(_narrow, line) if line.lstrip().startswith("expr:") else line for line in lines]
    return _RULES + textwrap.indent("".join(narrowed), "  ")


def _narrow(series: re.Match[str]) -> str:
    name, has_labels = series.groups()
    return f"{name}{{{_OF_THE_MESH}{',' if has_labels else '}'}"


def main() -> None:
    """Write the files anew."""
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
