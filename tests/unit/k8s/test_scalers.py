"""What k8s/ scales on: metrics that exist, of the part that is scaled; one set of rules for KEDA, HPA and us."""

import re
from typing import Final

import pytest

from mesh.autoscale import DOWN_PERIOD_S, RULES, UP_PERIOD_S
from mesh.kubernetes import MESH
from services.chat_worker.metrics import EngineMetrics
from services.gateway.metrics import Metrics
from tests.fixtures.exported import exported_names, registered
from tests.fixtures.manifests import BUILDS, Object, by_name, of_kind
from workerkit.batch_metrics import BatchMetrics

SIGNALS: Final = {  # by workload: metrics that its number of replicas follows, with how much of each one replica bears
    **{f"{kind}-worker": {rule.metric: rule.target for rule in rules} for kind, rules in RULES.items()},
    "gateway": {"mesh_requests_running": 200, "cpu": 70},
}
EXPORTED: Final = {
    "chat-worker": registered(EngineMetrics),
    "embed-worker": registered(BatchMetrics),
    "rerank-worker": registered(BatchMetrics),
    "gateway": set(Metrics().registry._names_to_collectors),
}


def metrics_in(query: str) -> list[str]:
    return re.findall(r"(?:vllm:|mesh_)\w+", query)


def keda_signals(spec: Object) -> dict[str, float]:
    found: dict[str, float] = {}
    for trigger in spec["triggers"]:
        if trigger["type"] == "cpu":
            found["cpu"] = float(trigger["metadata"]["value"])
        elif "activationThreshold" not in trigger["metadata"]:
            (metric,) = metrics_in(trigger["metadata"]["query"])
            found[metric] = float(trigger["metadata"]["threshold"])
    return found


def hpa_signals(spec: Object) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in spec["metrics"]:
        if metric["type"] == "Resource":
            found[metric["resource"]["name"]] = metric["resource"]["target"]["averageUtilization"]
        else:
            amount = metric["pods"]["target"]["averageValue"]
            found[metric["pods"]["metric"]["name"]] = (
                float(amount.removesuffix("m")) / 1000 if amount.endswith("m") else float(amount)
            )
    return found


def test_keda_the_hpa_and_the_local_autoscaler_follow_the_same_signals() -> None:
    scaled, scalers = by_name("gpu", "ScaledObject"), by_name("cpu-demo with options", "HorizontalPodAutoscaler")
    keda = {workload: keda_signals(spec) for workload, spec in scaled.items()}
    hpa = {workload: hpa_signals(spec) for workload, spec in scalers.items()}

    assert keda == hpa == SIGNALS


@pytest.mark.parametrize("workload", SIGNALS)
def test_every_signal_is_exported_by_the_part_that_it_scales(workload: str) -> None:
    assert SIGNALS[workload].keys() - {"cpu"} <= EXPORTED[workload]


@pytest.mark.parametrize("name", BUILDS)
def test_every_metric_in_a_query_is_exported_and_is_this_meshs_and_the_models(name: str) -> None:
    models = {service: model for model, service in MESH.services.items()}
    for scaled in of_kind(name, "ScaledObject"):
        workload, namespace = scaled["metadata"]["name"], scaled["metadata"]["namespace"]
        for trigger in scaled["spec"]["triggers"]:
            query = trigger["metadata"].get("query", "")
            assert set(metrics_in(query)) <= exported_names()
            assert query.count(f'{{namespace="{namespace}"') == len(metrics_in(query))
            if workload in models and "activationThreshold" not in trigger["metadata"]:
                assert f'model_name="{models[workload]}"' in query


@pytest.mark.parametrize("name", BUILDS)
def test_every_scaler_is_fast_up_and_slow_down_and_owns_the_number_of_replicas(name: str) -> None:
    configs = {
        workload: spec["advanced"]["horizontalPodAutoscalerConfig"]
        for workload, spec in by_name(name, "ScaledObject").items()
    }
    configs |= by_name(name, "HorizontalPodAutoscaler")
    for config in configs.values():
        up, down = config["behavior"]["scaleUp"], config["behavior"]["scaleDown"]
        assert (up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]) == (0, DOWN_PERIOD_S)
        assert {each["periodSeconds"] for each in up["policies"]} == {UP_PERIOD_S}
        assert {each["periodSeconds"] for each in down["policies"]} == {DOWN_PERIOD_S}
    for workload, spec in by_name(name, "Deployment").items():
        assert workload not in configs or "replicas" not in spec


def test_only_embedding_and_reranking_may_go_to_zero_and_their_routes_wake_them() -> None:
    scaled = by_name("gpu with options", "ScaledObject")
    least = {workload: spec["minReplicaCount"] for workload, spec in scaled.items()}
    assert least == {"chat-worker": 1, "embed-worker": 0, "rerank-worker": 0, "gateway": 2}
    wanted = {
        "embed-worker": ["/v1/embeddings", "/embed", "/zhinao.embedding.v1.EmbeddingService/Embed"],
        "rerank-worker": ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/zhinao.rerank.v1.RerankService/Rerank"],
    }

    for workload, spec in scaled.items():
        for trigger in spec["triggers"]:
            if "activationThreshold" in trigger["metadata"]:
                (pattern,) = re.findall(r'route=~"([^"]+)"', trigger["metadata"]["query"])
                routes = wanted.pop(workload)
                assert all(re.fullmatch(pattern, route) for route in routes)
                assert not re.fullmatch(pattern, "/v1/chat/completions")
    assert wanted == {}
