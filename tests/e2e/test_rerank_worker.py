"""The reranking worker in a real Triton behind the real mesh, against scores in process and a golden file."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkit.precision import Precision
from services.rerank_worker.ranker import load_ranker
from services.rerank_worker.request import RerankRequest
from tests.e2e.conftest import Mesh, free_port, zhinao
from tests.fixtures.tiny_zhinao import write_tiny_zhinao

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "fixtures" / "rerank_golden.json").read_text())
QUERY, DOCUMENTS = GOLDEN["query"], GOLDEN["documents"]


def raw_scores(mesh: Mesh, *documents: str, model: str = "zhinao-rerank") -> list[float]:
    """In the order of the documents."""
    body = json.dumps({"model": model, "query": QUERY, "documents": documents})
    answer = mesh.post("/v1/rerank", body)
    assert answer.status_code == 200, answer.text
    results = sorted(answer.json()["results"], key=lambda result: result["index"])
    return [result["raw_score"] for result in results]


def test_scores_equal_the_golden_ones_together_and_alone(mesh: Mesh) -> None:
    """The golden ones are in fp32, as the mesh's are: see the fixture."""
    with ThreadPoolExecutor(len(DOCUMENTS)) as clients:
        alone = list(clients.map(lambda document: raw_scores(mesh, document)[0], DOCUMENTS))

    np.testing.assert_allclose(raw_scores(mesh, *DOCUMENTS), GOLDEN["raw_scores"], atol=1e-3)
    np.testing.assert_allclose(alone, GOLDEN["raw_scores"], atol=1e-3)


@pytest.mark.parametrize("model", ["zhinao-rerank", "tiny-zhinao-rerank", "tiny-cross-encoder"])
def test_scores_equal_those_in_process(mesh: Mesh, model: str) -> None:
    ranker = load_ranker(mesh.checkpoints[model], Precision.FP32)
    expected = ranker.score(ranker.prepare(RerankRequest(QUERY, tuple(DOCUMENTS))))

    np.testing.assert_allclose(raw_scores(mesh, *DOCUMENTS, model=model), expected, atol=1e-3)
    assert max(expected) - min(expected) > 0.01, "scores too much alike to tell them apart"


def test_a_checkpoint_that_is_cut_short_is_refused_by_file(tmp_path: Path) -> None:
    checkpoint = write_tiny_zhinao(tmp_path)
    weights = checkpoint / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    words = ("--port", str(free_port()), "--state", str(tmp_path / "state"), "--replicas", "chat=0,embed=0")

    result = zhinao("up", "--detach", *words, "--rerank-model", str(checkpoint), check=False)

    assert result.returncode == 1
    assert "model.safetensors" in result.stderr
