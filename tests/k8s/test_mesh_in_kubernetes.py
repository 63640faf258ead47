"""Every build of k8s/ in a real control plane: it is taken, rolls out, survives drains, and each part scales alone."""

import copy
import json
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.fixtures.manifests import BUILDS, Object, build
from tests.k8s.conftest import GPU_NODES
from tests.k8s.control_plane.cluster import Cluster

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(1800)]

WORKERS: Final = ("chat-worker", "embed-worker", "rerank-worker")
OLDER: Final = {  # what this API server, 1.20, calls by an older name
    "autoscaling/v2": "autoscaling/v2beta2",
    "policy/v1": "policy/v1beta1",
}


def lowered(document: Object, namespace: str) -> Object:
    """An object as the older API server knows it, in another namespace."""
    older = copy.deepcopy(document)
    older["apiVersion"] = OLDER.get(older["apiVersion"], older["apiVersion"])
    metadata = older["metadata"]
    metadata["name" if older["kind"] == "Namespace" else "namespace"] = namespace
    if older["kind"] == "Deployment":
        for container in older["spec"]["template"]["spec"]["containers"]:
            container["livenessProbe"].pop("terminationGracePeriodSeconds")  # since 1.25
    return older


@pytest.fixture
def deploy(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """Applies a build in a namespace of its own, waits until it is ready, and removes it afterwards."""
    deployed: list[str] = []

    def apply(name: str) -> str:
        namespace = name.replace(" ", "-")
        deployed.append(namespace)
        documents = [lowered(each, namespace) for each in build(name)]
        cluster.tell(f"# the {len(documents)} objects of {name}")
        cluster.kubectl("apply", "--server-side", "-f", "-", given=documents)
        for volume in [each["metadata"]["name"] for each in documents if each["kind"] == "PersistentVolumeClaim"]:
            bind(cluster, namespace, volume)
        for each in documents:
            if each["kind"] == "Deployment":
                cluster.kubectl(
                    *("-n", namespace, "rollout", "status", "--timeout=90s", f"deployment/{each['metadata']['name']}")
                )
        return namespace

    yield apply
    with cluster.untold():
        for namespace in deployed:
            cluster.kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=90s")
            cluster.kubectl("delete", "pv", "--all", "--wait=true", "--timeout=30s")


@pytest.fixture
def gpu(cluster: Cluster, deploy: Callable[[str], str]) -> str:
    """The overlay gpu as the first test tells of it, deployed again; its namespace."""
    with cluster.untold():
        return deploy("gpu")


def bind(cluster: Cluster, namespace: str, claim: str) -> None:
    """Give a claim a volume, as a storage class would."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadWriteMany"],
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": "/nowhere"},
        },
    }
    cluster.kubectl("apply", "--server-side", "-f", "-", given=[volume])


def pods(cluster: Cluster, namespace: str, component: str) -> list[Object]:
    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/component={component}"
    return [each for each in cluster.get(path)["items"] if "deletionTimestamp" not in each["metadata"]]


def running(cluster: Cluster, namespace: str) -> dict[str, int]:
    """Pods that run, by component."""
    counts: dict[str, int] = {}
    for component in (*WORKERS, "gateway", "envoy"):
        found = pods(cluster, namespace, component)
        counts[component] = sum(each["status"].get("phase") == "Running" for each in found)
    return counts


def scale(cluster: Cluster, namespace: str, deployment: str, number: int) -> None:
    """Through the scale subresource, as an autoscaler does."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}/scale"
    body = {"spec": {"replicas": number}}
    cluster.tell(f"# PATCH {path} {json.dumps(body)}")
    cluster.ask("PATCH", path, body, "application/merge-patch+json")


def show(cluster: Cluster, namespace: str, *words: str) -> None:
    """Have kubectl print what there is, for the transcript."""
    cluster.kubectl("-n", namespace, "get", *words)


def evict(cluster: Cluster, pod: Object) -> int:
    """Ask for an eviction, as `kubectl drain` does; the HTTP status."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    body: dict[str, Any] = {"apiVersion": "policy/v1beta1", "kind": "Eviction"}
    body["metadata"] = {"name": name, "namespace": namespace}
    try:
        cluster.ask("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", body)
    except urllib.error.HTTPError as error:
        return error.code
    cluster.tell(f"# {name} is evicted")
    return 201


@pytest.mark.parametrize("name", BUILDS)
def test_every_build_is_taken_and_rolls_out(cluster: Cluster, deploy: Callable[[str], str], name: str) -> None:
    namespace = deploy(name)

    show(cluster, namespace, "deployments")
    wanted = {each["metadata"]["name"] for each in build(name) if each["kind"] == "Deployment"}
    assert {component for component, number in running(cluster, namespace).items() if number} == wanted
    endpoints = f"/api/v1/namespaces/{namespace}/endpoints"
    cluster.wait_until(
        "every Service has a pod",
        lambda: all(each.get("subsets", [{}])[0].get("addresses") for each in cluster.get(endpoints)["items"]),
    )


def test_a_misspelt_field_is_refused(cluster: Cluster) -> None:
    document = lowered(next(each for each in build("gpu") if each["kind"] == "Deployment"), "default")
    document["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"

    said = cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", given=[document], fails=True)

    assert "imagee" in said


def test_workers_run_on_nodes_with_gpus_and_the_others_do_not(cluster: Cluster, gpu: str) -> None:

    show(cluster, gpu, "pods", "-o", "wide")
    for component in (*WORKERS, "gateway", "envoy"):
        nodes = {each["spec"]["nodeName"] for each in pods(cluster, gpu, component)}
        assert nodes <= set(GPU_NODES) if component in WORKERS else nodes == {"cpu-0"}


def test_a_worker_without_a_gpu_to_have_waits(cluster: Cluster, gpu: str) -> None:
    scale(cluster, gpu, "chat-worker", 8)  # embed and rerank hold two of the eight

    cluster.wait_until("six chat workers run", lambda: running(cluster, gpu)["chat-worker"] == 6)

    events = cluster.kubectl("-n", gpu, "get", "events", "--field-selector=reason=FailedScheduling")
    assert "Insufficient nvidia.com/gpu" in events


@pytest.mark.parametrize("part", [*WORKERS, "gateway", "envoy"])
def test_each_part_scales_alone(cluster: Cluster, gpu: str, part: str) -> None:
    before = running(cluster, gpu)

    scale(cluster, gpu, part, 4)
    cluster.wait_until(f"four of {part}", lambda: running(cluster, gpu) == {**before, part: 4})
    show(cluster, gpu, "deployments")
    if part in ("embed-worker", "rerank-worker"):
        scale(cluster, gpu, part, 0)
        cluster.wait_until(f"none of {part}", lambda: running(cluster, gpu) == {**before, part: 0})
        show(cluster, gpu, "deployments")


def test_a_new_image_rolls_without_a_moment_of_fewer_pods(cluster: Cluster, gpu: str) -> None:
    scale(cluster, gpu, "chat-worker", 2)
    cluster.wait_until("two chat workers", lambda: running(cluster, gpu)["chat-worker"] == 2)
    fewest = 2

    def is_rolled() -> bool:
        nonlocal fewest
        found = pods(cluster, gpu, "chat-worker")
        fewest = min(fewest, sum(each["status"].get("phase") == "Running" for each in found))
        return [each["spec"]["containers"][0]["image"] for each in found] == ["zhinao-worker:next"] * 2

    cluster.kubectl("-n", gpu, "set", "image", "deployment/chat-worker", "worker=zhinao-worker:next")
    cluster.wait_until("the new image runs", is_rolled)

    assert fewest == 2
    cluster.tell("# pods that ran at once: never fewer than 2")


def test_a_drain_waits_until_a_worker_is_replaced(cluster: Cluster, gpu: str) -> None:
    scale(cluster, gpu, "chat-worker", 2)
    cluster.wait_until("two chat workers", lambda: running(cluster, gpu)["chat-worker"] == 2)
    budget = f"/apis/policy/v1beta1/namespaces/{gpu}/poddisruptionbudgets/chat-worker"
    cluster.wait_until("one may go", lambda: cluster.get(budget)["status"]["disruptionsAllowed"] == 1)
    show(cluster, gpu, "poddisruptionbudgets")
    first, second = pods(cluster, gpu, "chat-worker")

    cluster.kubectl("cordon", *GPU_NODES)  # nowhere a new one could run
    try:
        assert evict(cluster, first) == 201
        cluster.wait_until("the first is gone", lambda: running(cluster, gpu)["chat-worker"] == 1)
        node = second["spec"]["nodeName"]
        words = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=4s")
        said = cluster.kubectl(*words, "--pod-selector=app.kubernetes.io/component=chat-worker", fails=True)
        assert "Cannot evict pod as it would violate the pod's disruption budget" in said
    finally:
        cluster.kubectl("uncordon", *GPU_NODES)
    cluster.wait_until("the first is replaced", lambda: running(cluster, gpu)["chat-worker"] == 2)
    cluster.wait_until("the second may go", lambda: evict(cluster, second) == 201)
