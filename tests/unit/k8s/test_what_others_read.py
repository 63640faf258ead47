"""What others read in k8s/: alert rules for our series alone, and a pool of workers that say how full they are."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mesh.kubernetes import ALERTS, MESH
from mesh.worker_container import PORTS
from services.chat_worker.metrics import EngineMetrics
from tests.fixtures.debian import program
from tests.fixtures.exported import exported_names, registered
from tests.fixtures.manifests import by_name, of_kind, selected

# Of a model server, by the inference extension's reference; a worker tells the size of its cache once it has one.
PROTOCOL = {"vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"}


def test_the_operators_rules_are_the_local_meshs_for_what_the_monitors_label() -> None:
    (rule,) = of_kind("gpu", "PrometheusRule")
    labels = {label for spec in by_name("gpu", "ServiceMonitor").values() for label in spec["targetLabels"]}
    (label,) = labels
    (value,) = {each["metadata"]["labels"][label] for each in of_kind("gpu", "Service")}
    narrowed = f'{re.sub("[^a-z]", "_", label)}="{value}"'
    expressions = [each["expr"] for each in rule["spec"]["groups"][0]["rules"]]

    names = "|".join(sorted(exported_names() | {"up"}, key=len, reverse=True))
    for expression in expressions:
        series = re.findall(rf"\b(?:{names})\b(\S*)", expression)
        assert series and all(each.startswith(f"{{{narrowed}") for each in series), expression
    local = json.dumps(rule["spec"]).replace(json.dumps(narrowed)[1:-1], "").replace("{,", "{").replace("{}", "")
    assert json.loads(local) == yaml.safe_load(ALERTS.read_text())


@pytest.mark.timeout(180)  # where it must be installed first
def test_promtool_accepts_the_operators_rules(tmp_path: Path) -> None:
    (rule,) = of_kind("gpu", "PrometheusRule")
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))

    command = [program("promtool", "prometheus"), "check", "rules", file]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_pool_is_the_chat_workers_on_the_port_of_their_answers() -> None:
    name = "gpu with options"
    pool = by_name(name, "InferencePool")["chat-worker"]
    service = by_name(name, "Service")["chat-worker"]["ports"][0]

    assert [each["metadata"]["name"] for each in selected(name, pool["selector"])] == ["chat-worker"]
    assert pool["targetPorts"] == [{"number": MESH.worker_port}] == [{"number": service["port"]}]
    assert pool["appProtocol"] == service["appProtocol"]
    assert registered(EngineMetrics) >= PROTOCOL


def test_a_pools_picker_is_let_through_to_the_metrics_and_to_nothing_else() -> None:
    rules = by_name("gpu with options", "NetworkPolicy")["workers"]["ingress"]

    picker = {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "endpoint-picker"}}}
    assert [[port["port"] for port in rule["ports"]] for rule in rules if picker in rule["from"]] == [[PORTS[2]]]
