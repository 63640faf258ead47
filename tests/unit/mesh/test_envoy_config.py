"""Envoy's configuration, checked by the real Envoy."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mesh import envoy
from mesh.envoy import Collector, EnvoyConfig, ModelRoute
from mesh.failure import MeshFailure
from mesh.plan import EdgeLimits


def make_config(folder: Path, *ids: str) -> EnvoyConfig:
    routes = [
        ModelRoute(model_id, f"chat-{index}", folder / f"{index}.json", has_prefix_cache=index == 0)
        for index, model_id in enumerate(ids)
    ]
    for route in routes:
        envoy.write_endpoints(route, [14_005])
    return EnvoyConfig("127.0.0.1", 8360, 14_000, 14_001, [14_002, 14_012], [14_003, 14_013], routes, folder)


def test_the_real_envoy_accepts_the_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "it's a #folder"
    folder.mkdir()
    config = folder / "envoy.yaml"
    config.write_text(envoy.render(make_config(folder, "zhinao-chat", "org/other")))

    result = subprocess.run([*envoy.command(config), "--mode", "validate"], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:4318", "https://collector.example.com/tenant/"])
def test_the_real_envoy_accepts_a_collector(tmp_path: Path, endpoint: str) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(envoy.render(replace(make_config(tmp_path, "a"), collector=Collector.at(endpoint))))

    result = subprocess.run([*envoy.command(config), "--mode", "validate"], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


def test_the_real_envoy_accepts_limits(tmp_path: Path) -> None:
    limits = EdgeLimits(max_body_bytes=1, requests_per_second=1)
    config = tmp_path / "envoy.yaml"
    config.write_text(envoy.render(replace(make_config(tmp_path, "a"), limits=limits)))

    envoy.check(config)


def test_a_collectors_address_is_read_from_its_endpoint() -> None:
    expected = Collector("collector.example.com", 443, "https://collector.example.com/tenant/v1/traces", tls=True)
    assert Collector.at("https://collector.example.com/tenant/") == expected
    assert Collector.at("http://[::1]:4318") == Collector("::1", 4318, "http://[::1]:4318/v1/traces", tls=False)
    with pytest.raises(MeshFailure, match="localhost:4318"):
        Collector.at("localhost:4318")


def test_a_mesh_without_models_is_accepted_too(tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(envoy.render(make_config(tmp_path)))

    result = subprocess.run([*envoy.command(config), "--mode", "validate"], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


def test_only_the_edge_leaves_loopback(tmp_path: Path) -> None:
    config = make_config(tmp_path, "a")
    rendered = yaml.safe_load(envoy.render(replace(config, edge_host="0.0.0.0")))

    listeners = {each["name"]: each["address"]["socket_address"] for each in rendered["static_resources"]["listeners"]}
    assert listeners["edge"] == {"address": "0.0.0.0", "port_value": 8360}
    assert listeners["internal"] == {"address": "127.0.0.1", "port_value": 14_000}
    assert rendered["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_every_model_is_picked_by_its_own_header_value(tmp_path: Path) -> None:
    rendered = yaml.safe_load(envoy.render(make_config(tmp_path, "a", 'b"\\')))

    internal = rendered["static_resources"]["listeners"][1]
    manager = internal["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    picked = {r["match"]["headers"][0]["string_match"]["exact"]: r["route"]["cluster"] for r in routes}
    assert picked == {"a": "chat-0", 'b"\\': "chat-1"}


def test_taking_a_model_out_leaves_an_empty_list_of_addresses(tmp_path: Path) -> None:
    route = ModelRoute("a", "chat-a", tmp_path / "a.json", has_prefix_cache=True)
    envoy.write_endpoints(route, [14_005])

    envoy.write_endpoints(route, [])

    (assignment,) = json.loads(route.endpoints.read_bytes())["resources"]
    assert assignment["cluster_name"] == "chat-a"
    assert assignment["endpoints"] == [{"lb_endpoints": []}]
    assert list(tmp_path.iterdir()) == [route.endpoints]


def test_a_machine_that_is_gone_is_seen_on_every_connection_to_another_part(tmp_path: Path) -> None:
    clusters = yaml.safe_load(envoy.render(make_config(tmp_path, "a")))["static_resources"]["clusters"]

    for cluster in clusters:
        (protocols,) = cluster["typed_extension_protocol_options"].values()
        http2 = protocols["explicit_http_config"].get("http2_protocol_options", {})
        assert "connection_keepalive" in http2 or "tcp_keepalive" in cluster.get("upstream_connection_options", {})
