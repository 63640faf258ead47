"""Envoy's configurations for Kubernetes are what the local mesh's template renders, and the real Envoy takes them."""

import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from mesh import envoy
from mesh.kubernetes import COLLECTOR, ENVOY_FILES, MANIFESTS, MESH, files
from tests.fixtures.manifests import BUILDS, Object, of_kind, pod

FOLDER: Final = MANIFESTS / "base" / "envoy"

every_build = pytest.mark.parametrize("name", BUILDS)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_the_committed_file_is_what_is_written(path: Path) -> None:
    assert path.read_text() == files()[path], "run: python -m mesh.kubernetes"


@pytest.mark.parametrize("name", ENVOY_FILES)
def test_the_real_envoy_accepts_it(name: str, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.yaml"
    certificate.write_bytes((MANIFESTS / "components/tls/certificate.yaml").read_bytes())
    config = tmp_path / "envoy.yaml"
    tls = ENVOY_FILES[name].tls
    text = (FOLDER / name).read_text()
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
    asked = [route["match"] for route in manager(ops)["route_config"]["virtual_hosts"][0]["routes"]]
    assert asked == [{"path": "/ready"}, {"path": "/stats/prometheus"}]


def test_only_the_edge_speaks_tls_and_only_where_it_is_asked_to() -> None:
    for name, mesh in ENVOY_FILES.items():
        listeners = yaml.safe_load((FOLDER / name).read_text())["static_resources"]["listeners"]
        speaks = {each["name"] for each in listeners if "transport_socket" in each["filter_chains"][0]}
        assert speaks == ({"edge"} if mesh.tls else set())


@every_build
def test_envoy_reads_the_file_that_the_components_of_a_build_ask_for(name: str) -> None:
    read, data = configuration(name)

    edge, internal, _ = yaml.safe_load(data[read])["static_resources"]["listeners"]
    secrets = [volume for volume in pod(envoy_of(name))["volumes"] if "secret" in volume]
    assert ("transport_socket" in edge["filter_chains"][0]) == bool(secrets) == ("certificate.yaml" in data)
    providers = [manager(each).get("tracing", {}).get("provider") for each in (edge, internal)]
    uris = [each["typed_config"]["http_service"]["http_uri"]["uri"] for each in providers if each is not None]
    assert uris == ([f"{COLLECTOR}/v1/traces"] * 2 if told(name) else [])


@every_build
def test_all_parts_send_spans_to_one_collector_and_are_let_out_to_it_or_none_does(name: str) -> None:
    others = {each["metadata"]["name"] for each in of_kind(name, "Deployment")} - {"envoy"}
    assert told(name) in ({}, dict.fromkeys(others, COLLECTOR))

    for policy in of_kind(name, "NetworkPolicy") if told(name) else ():
        reached = {port["port"] for rule in policy["spec"]["egress"] if "to" not in rule for port in rule["ports"]}
        assert int(COLLECTOR.rpartition(":")[2]) in reached, policy["metadata"]["name"]


def manager(listener: Object) -> Object:
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def envoy_of(name: str) -> Object:
    (found,) = [each for each in of_kind(name, "Deployment") if each["metadata"]["name"] == "envoy"]
    return found


def configuration(name: str) -> tuple[str, dict[str, str]]:
    """Name of the file that Envoy is started with, and all it is given."""
    (container,) = pod(envoy_of(name))["containers"]
    path = container["command"][container["command"].index("-c") + 1]
    for each in container["env"]:
        path = path.replace(f"$({each['name']})", each.get("value", ""))
    (volume,) = [each for each in pod(envoy_of(name))["volumes"] if each["name"] == "config"]
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(name, "ConfigMap")}
    return Path(path).name, maps[volume["configMap"]["name"]]


def told(name: str) -> dict[str, str]:
    """Where parts are told to send their spans, by workload."""
    return {
        each["metadata"]["name"]: variable["value"]
        for each in of_kind(name, "Deployment")
        for variable in pod(each)["containers"][0].get("env", [])
        if variable["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT"
    }


@every_build
def test_gateways_are_connected_to_every_envoy_and_ask_anew_who_there_is(name: str) -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(name, "Service")}
    read, data = configuration(name)
    _, internal, _ = yaml.safe_load(data[read])["static_resources"]["listeners"]

    assert services["envoy"]["clusterIP"] == "None"
    assert manager(internal)["common_http_protocol_options"] == {"max_connection_duration": "60s"}
