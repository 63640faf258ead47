"""Decides the names and ports of a mesh in Kubernetes, and writes Envoy's configuration for it beside the manifests."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesh.envoy import NamedMesh, render_named

MANIFESTS: Final = Path(__file__).resolve().parent.parent / "k8s"
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
)
ENVOY_FILES: Final[Mapping[str, NamedMesh]] = MappingProxyType(
    {
        "base/envoy/envoy.yaml": MESH,
        "components/tls/envoy.yaml": replace(MESH, tls="/etc/envoy/certificate.yaml"),
    }
)


def main() -> None:
    """Write the files anew; a test says whether they are what this writes."""
    for name, mesh in ENVOY_FILES.items():
        (MANIFESTS / name).write_text(render_named(mesh))


if __name__ == "__main__":
    main()
