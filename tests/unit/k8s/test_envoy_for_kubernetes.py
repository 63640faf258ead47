"""Envoy's configuration for Kubernetes is what the local mesh's template renders, and the real Envoy takes it."""

import subprocess
from pathlib import Path

import pytest
import yaml

from mesh import envoy
from mesh.kubernetes import ENVOY_FILES, MANIFESTS, MESH


@pytest.mark.parametrize("file", ENVOY_FILES)
def test_the_committed_file_is_what_the_template_renders(file: str) -> None:
    rendered = envoy.render_named(ENVOY_FILES[file])

    assert (MANIFESTS / file).read_text() == rendered, "run: python -m mesh.kubernetes"


@pytest.mark.parametrize("file", ENVOY_FILES)
def test_the_real_envoy_accepts_it(file: str, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.yaml"
    certificate.write_bytes((MANIFESTS / "components/tls/certificate.yaml").read_bytes())
    config = tmp_path / "envoy.yaml"
    tls = ENVOY_FILES[file].tls
    text = (MANIFESTS / file).read_text()
    config.write_text(text if tls is None else text.replace(tls, str(certificate)))

    result = subprocess.run([*envoy.command(config), "--mode", "validate"], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "Deprecated" not in result.stderr


def test_parts_are_found_by_name_and_the_admin_by_nobody_else() -> None:
    rendered = yaml.safe_load(envoy.render_named(MESH))["static_resources"]

    where = {}
    for cluster in rendered["clusters"]:
        (group,) = cluster["load_assignment"]["endpoints"]
        (end,) = group["lb_endpoints"]
        address = end["endpoint"]["address"]["socket_address"]
        where[cluster["name"]] = (
            cluster.get("cluster_type", {}).get("name"),
            address["address"],
            address["port_value"],
        )
    dns = "envoy.clusters.dns"
    assert where.pop("admin") == (None, "127.0.0.1", 9901)
    assert where.pop("gateway-http") == (dns, "gateway", 8080)
    assert where.pop("gateway-grpc") == (dns, "gateway", 8081)
    assert where == {service: (dns, service, 8001) for service in MESH.services.values()}
    (ops,) = [each for each in rendered["listeners"] if each["name"] == "ops"]
    manager = ops["filter_chains"][0]["filters"][0]["typed_config"]
    asked = [route["match"] for route in manager["route_config"]["virtual_hosts"][0]["routes"]]
    assert asked == [{"path": "/ready"}, {"path": "/stats/prometheus"}]


def test_only_the_edge_speaks_tls_and_only_where_it_is_asked_to() -> None:
    for file, mesh in ENVOY_FILES.items():
        listeners = yaml.safe_load((MANIFESTS / file).read_text())["static_resources"]["listeners"]
        speaks = {each["name"] for each in listeners if "transport_socket" in each["filter_chains"][0]}
        assert speaks == ({"edge"} if mesh.tls else set())
