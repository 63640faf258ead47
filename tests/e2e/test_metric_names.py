"""Every metric that operators are told of is exported by a running mesh."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.e2e.conftest import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"(?:vllm:|mesh_|nv_|envoy_|gen_ai_(?:server|client)_)\w*\w")
ONLY_AFTER_AN_EVENT = {"mesh_retries_total", "mesh_wasted_tokens_total"}  # a worker that died, a client that left
QUESTIONS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True},
    "/v1/embeddings": {"input": "hi"},
    "/v1/rerank": {"query": "hi", "documents": ["ho", "hi"]},
}


@pytest.fixture(scope="module")
def exported(mesh: Mesh) -> tuple[set[str], set[str]]:
    """Names of all series of all parts, after a request of each kind, and names of which a type is told."""
    for path, body in QUESTIONS.items():
        assert mesh.post(path, json.dumps(body)).status_code == 200
    text = "\n".join(httpx.get(part["metrics"]).text for part in mesh.parts())
    return set(re.findall(r"^([\w:]+)(?:\{| )", text, re.MULTILINE)), set(
        re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    )


def series_asked_for() -> Iterator[str]:
    """Of alerts, dashboard and Kubernetes' autoscalers, which name series."""
    for name in ("keda", "hpa", "scale-to-zero"):
        for file in (ROOT / "k8s" / "components" / name).iterdir():
            yield from NAME.findall(file.read_text())
    monitoring = ROOT / "deploy" / "monitoring"
    for rule in yaml.safe_load((monitoring / "alerts.yaml").read_text())["groups"][0]["rules"]:
        yield from NAME.findall(rule["expr"])
    for panel in json.loads((monitoring / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield from NAME.findall(target["expr"])


def metrics_explained() -> set[str]:
    """Of the documents, which name metrics; a histogram is several series."""
    return {name for path in (ROOT / "docs").glob("*.md") for name in NAME.findall(path.read_text()) if "_" in name}


def test_alerts_dashboard_and_autoscalers_ask_for_series_that_are_there(exported: tuple[set[str], set[str]]) -> None:
    series, types = exported
    missing = set(series_asked_for()) - series

    assert missing <= ONLY_AFTER_AN_EVENT
    assert missing <= types


def test_documents_name_metrics_that_are_there(exported: tuple[set[str], set[str]]) -> None:
    explained = metrics_explained()
    known = set.union(*exported)

    assert len(explained) > 30
    assert {name for name in explained if not {name, f"{name}_bucket"} & known} == set()
