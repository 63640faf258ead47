"""Every panel of the dashboard shows something of a busy mesh, as a real Prometheus that scrapes it has it."""

import itertools
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import Mesh, free_port, wait_until
from tests.fixtures.debian import program

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

DASHBOARD = Path(__file__).parents[2] / "deploy" / "monitoring" / "dashboard.json"
QUERIES = {
    (panel["title"], target["refId"]): target["expr"].replace("$__rate_interval", "20s")
    for panel in json.loads(DASHBOARD.read_text())["panels"]
    for target in panel["targets"]
}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "ignore_eos": True}
QUESTIONS = (
    ("/v1/chat/completions", CHAT),
    ("/v1/embeddings", {"input": "hi"}),
    ("/v1/rerank", {"query": "hi", "documents": ["ho", "hi"]}),
)


@pytest.fixture
def prometheus(mesh: Mesh, tmp_path: Path) -> Iterator[str]:
    """URL of a Prometheus that scrapes every part of the mesh each second."""
    pages = [urlsplit(part["metrics"]) for part in mesh.parts()]
    targets = [
        {"job_name": page.netloc, "metrics_path": page.path, "static_configs": [{"targets": [page.netloc]}]}
        for page in pages
    ]
    config = tmp_path / "prometheus.yaml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": targets}))
    port = free_port()
    words = [
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen([program("prometheus", "prometheus"), *words], stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_every_query_of_every_panel_has_numbers_to_show(mesh: Mesh, prometheus: str) -> None:
    unanswered = set(QUERIES)
    questions = itertools.cycle(QUESTIONS)

    def all_answered() -> bool:
        path, body = next(questions)
        assert mesh.post(path, json.dumps(body)).status_code == 200
        leave_early(mesh)
        unanswered.difference_update({key for key in unanswered if has_numbers(prometheus, QUERIES[key])})
        return not unanswered

    wait_until(all_answered, 90)

    assert unanswered == set()


def leave_early(mesh: Mesh) -> None:
    """Be a client who goes after the first words: what was generated for it is wasted."""
    body = {**CHAT, "max_tokens": 500, "stream": True}
    with httpx.stream("POST", f"{mesh.url}/v1/chat/completions", json=body, timeout=60) as answer:
        next(answer.iter_text())


def has_numbers(prometheus: str, query: str) -> bool:
    """Whether the query finds a series, and its value is a number; False before Prometheus answers at all."""
    try:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()
    except httpx.TransportError:
        return False
    assert answer["status"] == "success", answer
    return any(math.isfinite(float(series["value"][1])) for series in answer["data"]["result"])
