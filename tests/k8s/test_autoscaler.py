"""Kubernetes' own autoscaler and the local mesh's decide alike, with the rules of k8s/ and the same load."""

import copy
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from mesh.autoscale import DOWN_PERIOD_S, RULES, UP_PERIOD_S, Autoscaler, Rule
from tests.fixtures.manifests import Object, by_name, of_kind
from tests.k8s.control_plane.cluster import Cluster
from tests.k8s.control_plane.metrics_api import CPU, metrics_api
from tests.k8s.test_mesh_in_kubernetes import lowered

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(600)]

FASTER: Final = 15  # a period of 30 s is 2 s here, and one of 300 s is 20 s
BUILD: Final = "cpu-demo with options"
# When, in seconds, and how much waits then, in what eight workers of each kind bear: a burst, a part of it, nothing.
LOAD: Final = ((0.0, 0.0), (5.0, 0.9), (25.0, 0.25), (100.0, 0.0))
END_S: Final = 150.0
RECORDING: Final = Path(__file__).with_name("recorded_load.csv")
ALL_RULES: Final = {  # a gateway has none on one machine; these are what its object in k8s/ says
    **{f"{kind}-worker": rules for kind, rules in RULES.items()},
    "gateway": (Rule("mesh_requests_running", 200), Rule(CPU, 70)),
}
COLUMNS: Final = "custom-columns=AT:.lastTimestamp,WHO:.involvedObject.name,WHAT:.message"


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


def test_both_autoscalers_take_the_same_steps(cluster: Cluster, tmp_path: Path) -> None:
    targets = {rule.metric: rule.target for rules in ALL_RULES.values() for rule in rules}
    specs = by_name(BUILD, "HorizontalPodAutoscaler")
    most = specs["chat-worker"]["maxReplicas"]
    began_s = time.monotonic()

    def value(metric: str, num_pods: int) -> float:
        amount = targets[metric] * most * share(time.monotonic() - began_s) / max(1, num_pods)
        return amount * 0.8 if metric == CPU else amount  # whole per cents must not be what decides

    namespace = "autoscaled"
    kept = of_kind(BUILD, "Namespace", "Deployment", "ConfigMap", "ServiceAccount")
    scalers = [fast(each, most) for each in of_kind(BUILD, "HorizontalPodAutoscaler")]
    with metrics_api(cluster, tmp_path, [metric for metric in targets if metric != CPU], value):
        began_s = time.monotonic()
        documents = [lowered(each, namespace) for each in (*kept, *scalers)]
        cluster.kubectl("apply", "--server-side", "-f", "-", given=documents)
        paces = UP_PERIOD_S / FASTER, DOWN_PERIOD_S / FASTER
        local = {part: Autoscaler(ALL_RULES[part], spec["minReplicas"], most, *paces) for part, spec in specs.items()}
        numbers = {part: [1] for part in specs}
        seen: dict[str, list[int]] = {part: [] for part in specs}
        began_s = time.monotonic()
        while (now_s := time.monotonic() - began_s) < END_S:
            for part, scaler in local.items():
                current = numbers[part][-1]
                page = {rule.metric: value(rule.metric, current) for rule in ALL_RULES[part]}
                numbers[part].append(scaler.decide([page] * current, current, now_s))
                path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{part}"
                seen[part].append(cluster.get(path)["spec"].get("replicas", 1))
            time.sleep(0.5)
    cluster.kubectl("-n", namespace, "get", "events", "--field-selector=reason=SuccessfulRescale", f"-o={COLUMNS}")
    with cluster.untold():
        cluster.kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=90s")

    for part, spec in specs.items():
        steps, local_steps = changes(seen[part]), changes(numbers[part])
        cluster.tell(f"# {part}: Kubernetes {steps}, the local autoscaler's algorithm {local_steps}")
        assert steps == local_steps
        assert max(steps) == most and steps[-1] == spec["minReplicas"]


def test_kubernetes_follows_a_recorded_load_as_the_local_mesh_did(cluster: Cluster, tmp_path: Path) -> None:
    """What `make bench-autoscale` saw of a mesh under its trace: time, workers, workers that served, both metrics."""
    looks = [tuple(map(float, line.split(","))) for line in RECORDING.read_text().splitlines()[1:]]
    most = int(max(number for _, number, *_ in looks))
    began_s = time.monotonic()

    def look() -> tuple[float, ...]:
        at_s = (time.monotonic() - began_s) * FASTER
        return max((each for each in looks if each[0] <= at_s), default=looks[0])

    def value(metric: str, num_pods: int) -> float:
        _, _, num_serving, age_s, busy_ratio = look()
        values = {"mesh_queue_age_seconds": age_s, "mesh_busy_ratio": busy_ratio * num_serving / max(1, num_pods)}
        return values.get(metric, 0.0)  # the same work, by however many it is done

    namespace, pairs = "recorded", list[tuple[int, int]]()
    kept = of_kind(BUILD, "Namespace", "Deployment", "ConfigMap", "ServiceAccount")
    scalers = {each["metadata"]["name"]: each for each in of_kind(BUILD, "HorizontalPodAutoscaler")}
    with metrics_api(cluster, tmp_path, [rule.metric for rule in RULES["embed"]], value):
        documents = [lowered(each, namespace) for each in (*kept, fast(scalers["embed-worker"], most))]
        cluster.kubectl("apply", "--server-side", "-f", "-", given=documents)
        began_s = time.monotonic()
        while look() != looks[-1]:
            path = f"/apis/apps/v1/namespaces/{namespace}/deployments/embed-worker"
            pairs.append((int(look()[1]), cluster.get(path)["spec"].get("replicas", 1)))
            time.sleep(0.25)
    with cluster.untold():
        cluster.kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=90s")

    local, there = ([pair[side] for pair in pairs] for side in range(2))
    alike = sum(one == other for one, other in pairs) / len(pairs)
    cluster.tell(f"# recorded: {changes(local)}, Kubernetes {changes(there)}, the same {alike:.0%} of the time")
    turns = [after > before for before, after in itertools.pairwise(changes(there))]
    assert (there[0], max(there)) == (local[0], max(local))
    assert turns == sorted(turns, reverse=True) and not turns[-1]  # it grows, then it shrinks
    assert alike > 0.8
