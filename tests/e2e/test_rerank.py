"""Reranking through the real mesh: every client ecosystem sees what the scorer says."""

import json

import cohere
import grpc
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.e2e.conftest import Mesh, zhinao
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.rerank.v1.rerank_pb2_grpc import RerankServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

QUERY = "What colour is the sky on a clear day?"
DOCUMENTS = [
    "Bread rises because yeast makes carbon dioxide.",
    "On a clear day the sky is blue, since air scatters blue light more than red.",
    "天空是蓝色的。",
    "The parliament of Iceland was founded in the year 930.",
    "Sunsets look red because light travels a long way through the air.",
]


@pytest.fixture(scope="module")
def scored(mesh: Mesh) -> RerankResponse:
    """What the scorer itself says, in the order of the documents."""
    with grpc.insecure_channel(mesh.url.removeprefix("http://")) as channel:
        return RerankServiceStub(channel).Rerank(RerankRequest(query=QUERY, documents=DOCUMENTS), timeout=120)


@pytest.fixture(scope="module")
def ranked(scored: RerankResponse) -> list[tuple[int, float]]:
    """The scorer's (index, relevance), best first."""
    pairs = [(index, score.relevance) for index, score in enumerate(scored.scores)]
    return sorted(pairs, key=lambda pair: -pair[1])


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]


def test_the_scorer_finds_the_answer(ranked: list[tuple[int, float]], scored: RerankResponse) -> None:
    assert ranked[0][0] == 1
    assert all(0 <= relevance <= 1 for _, relevance in ranked)
    assert scored.usage.prompt_tokens > 0 and scored.model == "zhinao-rerank"


def test_cohere_clients_see_the_scorers_order(mesh: Mesh, ranked: list[tuple[int, float]]) -> None:
    with cohere.Client(base_url=mesh.url, api_key="none") as client:
        first = client.rerank(query=QUERY, documents=DOCUMENTS)
    with cohere.ClientV2(base_url=mesh.url, api_key="none") as client:
        second = client.rerank(model="zhinao-rerank", query=QUERY, documents=DOCUMENTS, top_n=3)

    assert [each.index for each in first.results] == [index for index, _ in ranked]
    assert [each.index for each in second.results] == [index for index, _ in ranked[:3]]
    relevances = [each.relevance_score for each in (*first.results, *second.results)]
    assert relevances == pytest.approx([relevance for _, relevance in (*ranked, *ranked[:3])])


def test_llama_index_rerankers_see_the_scorers_order(mesh: Mesh, ranked: list[tuple[int, float]]) -> None:
    jina = JinaRerank(base_url=f"{mesh.url}/v1", model="zhinao-rerank", api_key="none", top_n=5)
    jina._session.headers["connection"] = "close"  # it never closes its session itself
    tei = TextEmbeddingInference(base_url=mesh.url, top_n=5, timeout=120)

    for reranker in (jina, tei):
        found = reranker.postprocess_nodes(nodes(), QueryBundle(QUERY))
        assert [DOCUMENTS.index(each.text) for each in found] == [index for index, _ in ranked]
        assert [each.score for each in found] == pytest.approx([relevance for _, relevance in ranked])


def test_scores_of_pairs_are_the_scorers(mesh: Mesh, scored: RerankResponse) -> None:
    for text_1 in (QUERY, [QUERY] * len(DOCUMENTS)):
        answer = mesh.post("/v1/score", json.dumps({"text_1": text_1, "text_2": DOCUMENTS})).json()

        found = [each["score"] for each in answer["data"]]
        assert found == pytest.approx([score.relevance for score in scored.scores])


def test_too_many_documents_are_refused_with_their_number(mesh: Mesh) -> None:
    answer = mesh.post("/v1/rerank", json.dumps({"query": QUERY, "documents": ["a"] * 10_000}))

    assert answer.status_code == 400
    assert "10000" in answer.json()["message"]


def test_the_command_line_reranks(mesh: Mesh, ranked: list[tuple[int, float]]) -> None:
    results = zhinao("rerank", "--url", mesh.url, "--json", QUERY, *DOCUMENTS).stdout.splitlines()

    assert [json.loads(line)["index"] for line in results] == [index for index, _ in ranked]
