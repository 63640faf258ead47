"""The routes of the one scorer: what reaches the worker, and how its scores come back in each form."""

import asyncio

import cohere
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.contract.gateway.conftest import Mesh, metrics_hold
from tests.fakes.triton import Compute, Hold, scores
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse

pytestmark = pytest.mark.asyncio(loop_scope="session")

V1, V2, TEI, SCORE = "/v1/rerank", "/v2/rerank", "/rerank", "/v1/score"
COLOURS = ["blue", "pink", "red"]
ASK = {"query": "sky", "documents": COLOURS}


def by_length(request: object) -> list[RerankResponse]:
    """Scores of a worker that thinks the longer document the more relevant one."""
    assert isinstance(request, RerankRequest)
    return [scores(*(len(document) / 10 for document in request.documents))]


@pytest.mark.parametrize(("path", "version"), [(V1, "1"), (V2, "2")])
async def test_the_answer_has_the_shape_of_cohere_and_jina(mesh: Mesh, path: str, version: str) -> None:
    mesh.triton.script = [scores(0.25, 0.75, 0.5, threshold=0.5, truncated=4)]

    answer = (await mesh.http.post(path, json=ASK)).json()

    assert answer.pop("id").startswith("rerank-")
    assert answer == {
        "object": "list",
        "model": "zhinao-rerank",
        "results": [
            {"index": 1, "relevance_score": 0.75, "raw_score": 7.5},
            {"index": 2, "relevance_score": 0.5, "raw_score": 5.0},
            {"index": 0, "relevance_score": 0.25, "raw_score": 2.5},
        ],
        "threshold": 0.5,
        "usage": {"prompt_tokens": 11, "total_tokens": 11, "truncated_tokens": [0, 0, 4]},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": 11, "output_tokens": 0},
        },
    }


async def test_a_request_reaches_the_worker_whole(mesh: Mesh) -> None:
    mesh.triton.script = [scores(0.5, 0.5)]
    documents = ["blue", {"text": "pink", "title": "colour"}]

    await mesh.http.post(
        V1,
        json={"query": "sky", "documents": documents, "max_tokens_per_doc": 9, "rank_fields": ["text"]},
        headers={"x-request-id": "trace-7"},
    )

    request = mesh.triton.rerank_request
    assert (request.model, request.request_id, request.query) == ("zhinao-rerank", "trace-7", "sky")
    assert (list(request.documents), request.max_tokens_per_document) == (["blue", "pink"], 9)
    (received,) = mesh.triton.received
    assert (received.triton_model, received.operation) == ("rerank", "rerank")


async def test_without_a_threshold_none_is_told_and_no_limit_is_sent(mesh: Mesh) -> None:
    mesh.triton.script = [scores(0.5)]

    answer = await mesh.http.post(V1, json={"query": "sky", "documents": ["blue"]})

    assert "threshold" not in answer.json()
    assert not mesh.triton.rerank_request.HasField("max_tokens_per_document")


@pytest.mark.parametrize(("top_n", "indices"), [(1, [2]), (2, [2, 0]), (99, [2, 0, 1, 3]), (None, [2, 0, 1, 3])])
async def test_the_best_come_first_and_ties_in_the_order_of_the_request(
    mesh: Mesh, top_n: int | None, indices: list[int]
) -> None:
    mesh.triton.script = [scores(0.5, 0.5, 0.9, 0.5)]

    answer = await mesh.http.post(V1, json={"query": "q", "documents": ["a", "b", "c", "d"], "top_n": top_n})

    assert [result["index"] for result in answer.json()["results"]] == indices
    assert len(answer.json()["usage"]["truncated_tokens"]) == 4


async def test_documents_come_back_as_they_were_sent_if_asked_for(mesh: Mesh) -> None:
    mesh.triton.script = [scores(0.1, 0.9)]
    documents = ["blue", {"text": "pink", "page": 7, "tags": ["a"]}]

    answer = await mesh.http.post(V1, json={"query": "q", "documents": documents, "return_documents": True})

    assert [result["document"] for result in answer.json()["results"]] == [documents[1], {"text": "blue"}]


@pytest.mark.parametrize(("num_documents", "units"), [(1, 1), (100, 1), (101, 2)])
async def test_a_hundred_documents_are_a_search_unit(mesh: Mesh, num_documents: int, units: int) -> None:
    mesh.triton.script = [scores(*[0.5] * num_documents)]

    answer = await mesh.http.post(V2, json={"query": "q", "documents": ["a"] * num_documents})

    assert answer.json()["meta"]["billed_units"]["search_units"] == units


async def test_tei_gets_a_bare_list_best_first(mesh: Mesh) -> None:
    mesh.triton.script = [scores(0.25, 0.75, truncated=4)]
    body = {"query": "sky", "texts": ["blue", "pink"]}

    plain = await mesh.http.post(TEI, json=body)
    asked = await mesh.http.post(TEI, json={**body, "raw_scores": True, "return_text": True, "truncate": True})

    assert plain.json() == [{"index": 1, "score": 0.75, "truncated_tokens": 4}, {"index": 0, "score": 0.25}]
    assert asked.json() == [
        {"index": 1, "score": 7.5, "text": "pink", "truncated_tokens": 4},
        {"index": 0, "score": 2.5, "text": "blue"},
    ]


async def test_tei_may_forbid_to_cut(mesh: Mesh) -> None:
    mesh.triton.script = [scores(0.25, 0.75, truncated=4)]

    answer = await mesh.http.post(TEI, json={"query": "sky", "texts": ["blue", "pink"], "truncate": False})

    assert answer.status_code == 400
    assert answer.json()["param"] == "truncate"
    assert answer.json()["error"] == "query and texts[1] are 4 tokens too long together, and truncate is false"


@pytest.mark.parametrize(
    ("text_1", "text_2", "asked"),
    [
        ("q", "a", [("q", ["a"])]),
        ("q", ["a", "bb"], [("q", ["a", "bb"])]),
        (["q"], ["a", "bb"], [("q", ["a", "bb"])]),
        (["q", "r", "r"], ["a", "bb", "ccc"], [("q", ["a"]), ("r", ["bb", "ccc"])]),
        (["q"] * 2, ["a", "bb"], [("q", ["a", "bb"])]),
    ],
)
async def test_scores_come_in_the_order_of_the_pairs(
    mesh: Mesh, text_1: object, text_2: object, asked: list[tuple[str, list[str]]]
) -> None:
    mesh.triton.script = [Compute(by_length)]

    answer = await mesh.http.post(SCORE, json={"text_1": text_1, "text_2": text_2})

    requests = [received.request for received in mesh.triton.received]
    assert sorted((each.query, list(each.documents)) for each in requests) == asked
    lengths = [len(document) for _, documents in asked for document in documents]
    body = answer.json()
    assert body["data"] == [
        {"object": "score", "index": index, "score": length / 10} for index, length in enumerate(lengths)
    ]
    assert (body["object"], body["model"]) == ("list", "zhinao-rerank")
    assert body["id"].startswith("score-") and body["created"] > 0
    assert body["usage"] == {
        "prompt_tokens": 11 * len(asked),
        "total_tokens": 11 * len(asked),
        "truncated_tokens": [0] * len(lengths),
    }


async def test_many_scores_ask_the_worker_a_few_at_a_time(mesh: Mesh) -> None:
    hold = Hold()
    mesh.triton.script = [hold, Compute(by_length)]
    pairs = [str(number) for number in range(100)]

    asking = asyncio.create_task(mesh.http.post(SCORE, json={"text_1": pairs, "text_2": pairs}))
    async with asyncio.timeout(5):
        while len(mesh.triton.received) < 32:
            await mesh.http.get("/health")
    await metrics_hold(mesh, "mesh_requests_running 32.0")
    num_asked = len(mesh.triton.received)
    hold.release.set()
    answer = await asking

    assert num_asked == 32
    assert [each["score"] for each in answer.json()["data"]] == [len(pair) / 10 for pair in pairs]


async def test_one_failed_pair_fails_the_request_and_cancels_the_others(mesh: Mesh) -> None:
    def refuse(request: object) -> list[RerankResponse]:
        assert isinstance(request, RerankRequest)
        return [scores(0.5) if request.query == "q" else scores(0.5, 0.5)]  # one too many

    mesh.triton.script = [Compute(refuse)]

    answer = await mesh.http.post(SCORE, json={"text_1": ["q", "r"], "text_2": ["a", "b"]})

    assert answer.status_code == 500


async def test_both_cohere_clients_read_the_answer(mesh: Mesh) -> None:
    mesh.triton.script = [scores(0.25, 0.75, 0.5)]
    async with cohere.AsyncClient(base_url=mesh.url, api_key="none") as client:
        v1 = await client.rerank(model="zhinao-rerank", query="sky", documents=COLOURS, return_documents=True)
    async with cohere.AsyncClientV2(base_url=mesh.url, api_key="none") as client:
        v2 = await client.rerank(model="zhinao-rerank", query="sky", documents=COLOURS, top_n=2)

    assert [(each.index, each.relevance_score) for each in v1.results] == [(1, 0.75), (2, 0.5), (0, 0.25)]
    assert [each.document.text for each in v1.results if each.document] == ["pink", "red", "blue"]
    assert [(each.index, each.relevance_score) for each in v2.results] == [(1, 0.75), (2, 0.5)]
    for answer, version in ((v1, "1"), (v2, "2")):
        assert answer.meta is not None and answer.meta.api_version is not None
        assert answer.meta.billed_units is not None and answer.meta.tokens is not None
        assert (answer.meta.api_version.version, answer.meta.billed_units.search_units) == (version, 1)
        assert answer.meta.tokens.input_tokens == 11


async def test_both_cohere_clients_read_a_failure(mesh: Mesh) -> None:
    async with cohere.AsyncClient(base_url=mesh.url, api_key="none") as client:
        with pytest.raises(cohere.NotFoundError) as unknown:
            await client.rerank(model="rerank-9", query="sky", documents=COLOURS)
    async with cohere.AsyncClientV2(base_url=mesh.url, api_key="none") as client:
        with pytest.raises(cohere.BadRequestError) as bad:
            await client.rerank(model="zhinao-rerank", query="sky", documents=[])

    assert "rerank-9" in unknown.value.body["message"]
    assert "documents must hold at least 1" in bad.value.body["message"]


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in COLOURS]


def jina_reranker(mesh: Mesh, model: str) -> JinaRerank:
    reranker = JinaRerank(base_url=f"{mesh.url}/v1", model=model, api_key="none", top_n=2)
    reranker._session.headers["connection"] = "close"  # it never closes its session itself
    return reranker


async def test_llama_indexs_rerankers_sort_as_the_scorer_does(mesh: Mesh) -> None:
    mesh.triton.script = [scores(0.25, 0.75, 0.5)]
    jina = jina_reranker(mesh, "zhinao-rerank")
    tei = TextEmbeddingInference(base_url=mesh.url, top_n=2)

    for reranker in (jina, tei):
        found = await asyncio.to_thread(reranker.postprocess_nodes, nodes(), QueryBundle("sky"))
        assert [(each.text, each.score) for each in found] == [("pink", 0.75), ("red", 0.5)]


async def test_llama_indexs_jina_reranker_shows_why_it_failed(mesh: Mesh) -> None:
    jina = jina_reranker(mesh, "rerank-9")

    with pytest.raises(RuntimeError, match="'rerank-9' does not exist"):
        await asyncio.to_thread(jina.postprocess_nodes, nodes(), QueryBundle("sky"))
