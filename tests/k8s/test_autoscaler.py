"""Kubernetes' own autoscaler and the local mesh's decide alike, with the rules of k8s/ and the same load."""

import copy
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from mesh import autoscale
from mesh.autoscale import RULES, Autoscaler
from tests.fixtures.manifests import Object, by_name, of_kind
from tests.k8s.control_plane.cluster import Cluster
from tests.k8s.control_plane.metrics_api import metrics_api
from tests.k8s.test_mesh_in_kubernetes import lowered

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(600)]

FASTER: Final = 15  # a period of 30 s is 2 s here, and one of 300 s is 20 s
BUILD: Final = "cpu-demo with options"
# When, in seconds, and how much waits then, in what eight workers of each kind bear: a burst, a part of it, nothing.
LOAD: Final = ((0.0, 0.0), (5.0, 0.9), (25.0, 0.25), (100.0, 0.0))
END_S: Final = 150.0


def share(at_s: float) -> float:
    return [amount for since_s, amount in LOAD if since_s <= at_s][-1]


def changes(numbers: Sequence[int]) -> list[int]:
    """The numbers, each as often as it came anew."""
    return [number for number, _ in itertools.groupby(numbers)]


def fast(scaler: Object, most: int) -> Object:
    """An autoscaler that need not be waited for so long."""
    faster = copy.deepcopy(scaler)
    faster["spec"]["maxReplicas"] = most
    for way in faster["spec"]["behavior"].values():
        way["stabilizationWindowSeconds"] //= FASTER
        for policy in way["policies"]:
            policy["periodSeconds"] //= FASTER
    return faster


def test_both_autoscalers_take_the_same_steps(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoscale, "UP_PERIOD_S", autoscale.UP_PERIOD_S / FASTER)
    monkeypatch.setattr(autoscale, "DOWN_PERIOD_S", autoscale.DOWN_PERIOD_S / FASTER)
    targets = {rule.metric: rule.target for rules in RULES.values() for rule in rules}
    most = by_name(BUILD, "HorizontalPodAutoscaler")["chat-worker"]["maxReplicas"]
    began_s = time.monotonic()

    def value(metric: str, num_pods: int) -> float:
        return targets[metric] * most * share(time.monotonic() - began_s) / max(1, num_pods)

    namespace = "autoscaled"
    kept = of_kind(BUILD, "Namespace", "Deployment", "ConfigMap", "ServiceAccount")
    every = of_kind(BUILD, "HorizontalPodAutoscaler")
    scalers = [fast(each, most) for each in every if each["metadata"]["name"] != "gateway"]  # it asks for CPU as well
    with metrics_api(cluster, tmp_path, list(targets), value):
        began_s = time.monotonic()
        documents = [lowered(each, namespace) for each in (*kept, *scalers)]
        cluster.kubectl("apply", "--server-side", "-f", "-", given=documents)
        local = {kind: Autoscaler(rules, 1, most) for kind, rules in RULES.items()}
        numbers = {kind: [1] for kind in RULES}
        seen: dict[str, list[int]] = {kind: [] for kind in RULES}
        began_s = time.monotonic()
        while (now_s := time.monotonic() - began_s) < END_S:
            for kind, scaler in local.items():
                current = numbers[kind][-1]
                page = {rule.metric: value(rule.metric, current) for rule in RULES[kind]}
                numbers[kind].append(scaler.decide([page] * current, current, now_s))
                path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{kind}-worker"
                seen[kind].append(cluster.get(path)["spec"].get("replicas", 1))
            time.sleep(0.5)
    cluster.kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=90s")

    print({kind: changes(found) for kind, found in seen.items()})  # noqa: T201 - the transcript in docs/kubernetes.md
    for kind in RULES:
        assert changes(seen[kind]) == changes(numbers[kind])
        assert max(seen[kind]) == most and seen[kind][-1] == 1
