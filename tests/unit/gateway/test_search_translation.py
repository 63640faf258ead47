"""Search requests and answers between JSON and protobuf, without a server."""

import base64
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import MeshError
from services.gateway.search.rerank import RerankRequest
from services.gateway.search.score import ScoreRequest
from services.gateway.search.tei import TeiRerankRequest
from services.gateway.translate.embeddings import to_embedding_list, to_vectors
from services.gateway.translate.rerank import from_score, to_rerank_answer, to_rerank_request, to_tei_ranks
from tests.fakes.triton import scores, vectors
from zhinao.rerank.v1.rerank_pb2 import RerankResponse, RerankScore

FLOATS = st.floats(width=32, allow_nan=False)
TEXTS = st.lists(st.sampled_from("ab"), min_size=1, max_size=8)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 384, 4095, 4096])  # where the length takes another byte
@pytest.mark.parametrize("truncated", [0, 300])
def test_a_vector_of_any_length_is_read_bit_by_bit(length: int, truncated: int) -> None:
    row = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    response = vectors(row.tolist(), truncated=[truncated])

    (found,) = to_vectors(response)
    encoded = to_embedding_list(response, "base64")["data"][0]["embedding"]

    np.testing.assert_array_equal(found, row)
    assert isinstance(encoded, str)
    assert base64.b64decode(encoded) == row.astype("<f4").tobytes()


@given(rows=st.lists(st.lists(FLOATS, max_size=40), max_size=5))
def test_vectors_of_any_numbers_are_read_as_they_are(rows: list[list[float]]) -> None:
    assert [vector.tolist() for vector in to_vectors(vectors(*rows))] == rows


@given(relevances=st.lists(st.floats(0, 1), min_size=1, max_size=20), top_n=st.none() | st.integers(1, 25))
def test_results_are_sorted_cut_and_point_to_their_documents(relevances: list[float], top_n: int | None) -> None:
    documents = [f"document {number}" for number in range(len(relevances))]
    body = RerankRequest(query="q", documents=documents, top_n=top_n, return_documents=True)

    results = to_rerank_answer(scores(*relevances), body, answer_id="1", version="1")["results"]

    found = [(result["relevance_score"], result["index"]) for result in results]
    everything = sorted(zip(relevances, range(len(relevances)), strict=True), key=lambda pair: (-pair[0] * 10, pair[1]))
    assert found == everything[:top_n]
    assert all(result.get("document") == {"text": documents[result["index"]]} for result in results)


def test_scores_that_are_one_relevance_keep_their_order() -> None:
    sent = ["bad", "good", "best", "worst"]
    pairs = zip((0.0, 1.0, 1.0, 0.0), (-800.0, 40.0, 41.0, -900.0), strict=True)
    response = RerankResponse(scores=[RerankScore(relevance=relevance, raw=raw) for relevance, raw in pairs])

    answer = to_rerank_answer(response, RerankRequest(query="q", documents=[*sent]), answer_id="1", version="1")
    ranks = to_tei_ranks(response, TeiRerankRequest(query="q", texts=sent))

    assert [sent[result["index"]] for result in answer["results"]] == ["best", "good", "bad", "worst"]
    assert [rank["index"] for rank in ranks] == [result["index"] for result in answer["results"]]


@given(queries=TEXTS, documents=TEXTS)
def test_pairs_to_score_keep_their_order_in_as_few_requests_as_there_are_runs(
    queries: list[str], documents: list[str]
) -> None:
    num_pairs = min(len(queries), len(documents))
    queries, documents = queries[:num_pairs], documents[:num_pairs]

    requests = from_score(ScoreRequest(text_1=queries, text_2=documents))

    pairs = chain.from_iterable([(each.query, document) for document in each.documents] for each in requests)
    assert list(pairs) == list(zip(queries, documents, strict=True))
    assert all(one.query != other.query for one, other in pairwise(requests))


@pytest.mark.parametrize("name", ["text_1", "text_2"])
def test_a_text_of_too_many_characters_is_told_by_its_place_in_the_request(name: str) -> None:
    texts = {"text_1": ["a", "b", "b"], "text_2": ["c"] * 3}
    texts[name][2] = " " * 262_145

    with pytest.raises(MeshError) as caught:
        from_score(ScoreRequest(**texts))

    assert caught.value.param == f"{name}[2]"
    assert caught.value.message == f"{name}[2] is 262145 characters, the limit is 262144"


def test_an_empty_document_is_one_too() -> None:
    body = RerankRequest(query="q", documents=["", {"text": ""}])

    assert list(to_rerank_request(body).documents) == ["", ""]
