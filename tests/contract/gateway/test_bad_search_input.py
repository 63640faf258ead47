"""What a client of the search routes can get wrong, and the answer that tells it so in a form it reads."""

import httpx
import pytest

from meshkit.errors import TABLE, MeshError, Reason
from meshkit.wire import encode_error
from tests.contract.gateway.conftest import Mesh
from tests.fakes.triton import ErrorText, scores, vectors

pytestmark = pytest.mark.asyncio(loop_scope="session")

EMBED, V1, V2, TEI, TEI_EMBED, SCORE = "/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/embed", "/v1/score"
GOOD = {
    EMBED: {"input": "a"},
    V1: {"query": "q", "documents": ["a"]},
    V2: {"query": "q", "documents": ["a"]},
    TEI: {"query": "q", "texts": ["a"]},
    TEI_EMBED: {"inputs": "a"},
    SCORE: {"text_1": "q", "text_2": "a"},
}


def told(answer: httpx.Response, path: str) -> dict[str, object]:
    """The failure in OpenAI's words, wherever the route's own clients look for the sentence."""
    body = answer.json()
    if path in (TEI, TEI_EMBED):
        assert isinstance(body.pop("error"), str)
        assert body.pop("error_type") in ("validation", "unhealthy", "overloaded", "backend")
        return body
    if path in (V1, V2):
        assert body["message"] == body["detail"] == body["error"]["message"]
        return body["error"]
    assert list(body) == ["error"]
    return body["error"]


@pytest.mark.parametrize(
    ("path", "change", "param", "code", "words"),
    [
        (EMBED, {"input": None}, "input[0]", "invalid_type", ["a text", "token id"]),
        (EMBED, {"input": ""}, "input[0]", "invalid_value", ["not empty"]),
        (EMBED, {"input": []}, "input", "invalid_value", ["at least 1", "got 0"]),
        (EMBED, {"input": ["a", ""]}, "input[1]", "invalid_value", ["not empty"]),
        (EMBED, {"input": ["a", 7]}, "input[1]", "invalid_type", ["token id", "got 7"]),
        (EMBED, {"input": [[1], []]}, "input[1]", "invalid_type", ["at least one token id"]),
        (EMBED, {"input": [1, -1]}, "input[0]", "invalid_type", ["token id"]),
        (EMBED, {"input": [2**32]}, "input[0]", "invalid_type", ["token id"]),
        (EMBED, {"input": [1, True]}, "input[0]", "invalid_type", ["token id"]),
        (EMBED, {"input": [1.5]}, "input[0]", "invalid_type", ["token id", "got 1.5"]),
        (EMBED, {"input": {"text": "a"}}, "input[0]", "invalid_type", ["a text"]),
        (EMBED, {"encoding_format": "int8"}, "encoding_format", "invalid_value", ["'base64'", '"int8"']),
        (EMBED, {"dimensions": 0}, "dimensions", "invalid_value", ["1", "got 0"]),
        (EMBED, {"dimensions": "8"}, "dimensions", "invalid_type", ["integer"]),
        (EMBED, {"input_type": "clustering"}, "input_type", "invalid_value", ["'search_query'", '"clustering"']),
        (EMBED, {"truncate": "middle"}, "truncate", "invalid_value", ["'start'", '"middle"']),
        (EMBED, {"truncate": 1}, "truncate", "invalid_value", []),
        (EMBED, {"instruction": 5}, "instruction", "invalid_type", ["string"]),
        (EMBED, {"space": 5}, "space", "invalid_type", ["string"]),
        (EMBED, {"task": "retrieval.query"}, "task", "unsupported_parameter", ["input_type"]),
        (EMBED, {"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "unsupported_parameter", ["send truncate"]),
        (EMBED, {"late_chunking": True}, "late_chunking", "unsupported_parameter", ["false"]),
        (EMBED, {"normalized": False}, "normalized", "unsupported_parameter", ["true"]),
        (TEI_EMBED, {"inputs": []}, "inputs", "invalid_value", ["at least 1"]),
        (TEI_EMBED, {"normalize": False}, "normalize", "unsupported_parameter", ["true"]),
        (TEI_EMBED, {"prompt_name": "s2p"}, "prompt_name", "invalid_value", ["'query'"]),
        (V1, {"query": ""}, "query", "invalid_value", ["at least 1"]),
        (V1, {"query": None}, "query", "invalid_type", ["string"]),
        (V1, {"query": ["q"]}, "query", "invalid_type", ["string"]),
        (V1, {"documents": []}, "documents", "invalid_value", ["at least 1", "got 0"]),
        (V1, {"documents": "a"}, "documents", "invalid_type", ["list"]),
        (V1, {"documents": ["a", 7]}, "documents[1]", "invalid_type", ["a text", "got 7"]),
        (V1, {"documents": [{"title": "a"}]}, "documents[0]", "invalid_type", ["the key text"]),
        (V1, {"documents": [{"text": 5}]}, "documents[0]", "invalid_type", ["the key text"]),
        (V1, {"documents": [{"text": "a", "n": 10**30}]}, "documents[0]", "invalid_value", ["cannot carry back"]),
        (V1, {"top_n": 0}, "top_n", "invalid_value", ["1", "got 0"]),
        (V2, {"top_n": "3"}, "top_n", "invalid_type", ["integer"]),
        (V2, {"max_tokens_per_doc": 0}, "max_tokens_per_doc", "invalid_value", ["1", "got 0"]),
        (V1, {"return_documents": "yes"}, "return_documents", "invalid_type", []),
        (V1, {"max_chunks_per_doc": 10}, "max_chunks_per_doc", "unsupported_parameter", ["leave it out"]),
        (V1, {"rank_fields": ["title", "text"]}, "rank_fields", "unsupported_parameter", ['["text"]']),
        (V1, {"top_k": 3}, "top_k", "unsupported_parameter", ["send top_n"]),
        (TEI, {"texts": []}, "texts", "invalid_value", ["at least 1"]),
        (TEI, {"texts": ["a", 5]}, "texts[1]", "invalid_type", ["string"]),
        (TEI, {"raw_scores": 1}, "raw_scores", "invalid_type", []),
        (TEI, {"truncation_direction": "left"}, "truncation_direction", "unsupported_parameter", ["right"]),
        (SCORE, {"text_1": []}, "text_1", "invalid_value", ["at least 1"]),
        (SCORE, {"text_1": ""}, "text_1[0]", "invalid_value", ["is empty"]),
        (SCORE, {"text_1": ["a", "a", ""], "text_2": ["c"] * 3}, "text_1[2]", "invalid_value", ["is empty"]),
        (SCORE, {"text_2": [5]}, "text_2[0]", "invalid_type", ["string"]),
        (SCORE, {"text_1": ["a", "b"], "text_2": ["c"] * 3}, "text_1", "invalid_value", ["2 texts", "3"]),
        (SCORE, {"text_1": ["a", "b"] * 600, "text_2": ["c"] * 1200}, "text_1", "invalid_value", ["1200", "1000"]),
        (SCORE, {"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "unsupported_parameter", []),
    ],
)
async def test_a_bad_field_is_named(
    mesh: Mesh, path: str, change: dict[str, object], param: str, code: str, words: list[str]
) -> None:
    answer = await mesh.http.post(path, json={**GOOD[path], **change})

    assert answer.status_code == 400, answer.text
    error = told(answer, path)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), error["message"]
    assert str(error["message"]).startswith(param.partition("[")[0])
    for word in words:
        assert word in str(error["message"])
    assert mesh.triton.received == []


@pytest.mark.parametrize(
    ("path", "text", "param"),
    [
        (EMBED, rb'{"input": ["a", "\ud800"]}', "input[1]"),
        (EMBED, rb'{"input": "a", "instruction": "\ud800"}', "instruction"),
        (V1, rb'{"query": "\ud800", "documents": ["a"]}', "query"),
        (V1, rb'{"query": "q", "documents": ["\ud800"]}', "documents[0]"),
        (V1, rb'{"query": "q", "documents": [{"text": "\ud800"}]}', "documents[0]"),
        (V1, rb'{"query": "q", "documents": [{"text": "a", "b": "\ud800"}]}', "documents[0]"),
        (TEI, rb'{"query": "q", "texts": ["\ud800"]}', "texts[0]"),
        (SCORE, rb'{"text_1": "\ud800", "text_2": "a"}', "text_1[0]"),
    ],
)
async def test_a_lone_surrogate_is_refused(mesh: Mesh, path: str, text: bytes, param: str) -> None:
    answer = await mesh.http.post(path, content=text, headers={"content-type": "application/json"})

    assert (answer.status_code, told(answer, path)["param"]) == (400, param)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"query": NaN}', b"\xff", b"[" * 90_000])
async def test_a_body_that_is_no_request_is_refused(mesh: Mesh, path: str, body: bytes) -> None:
    answer = await mesh.http.post(path, content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert told(answer, path)["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", GOOD)
async def test_a_model_of_another_kind_is_not_found(mesh: Mesh, path: str) -> None:
    answer = await mesh.http.post(path, json={**GOOD[path], "model": "zhinao-chat"})

    error = told(answer, path)
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "of kind chat, not " in str(error["message"])


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.INTERNAL, Reason.CLIENT_CANCELLED}))
async def test_a_failure_of_the_worker_is_told_by_the_table(mesh: Mesh, path: str, reason: Reason) -> None:
    mesh.triton.script = [ErrorText(encode_error(MeshError(reason, "limit 5, got 6", param="model")))]

    answer = await mesh.http.post(path, json=GOOD[path])

    row = TABLE[reason]
    assert answer.status_code == row.http
    assert told(answer, path) == {
        "message": "limit 5, got 6",
        "type": row.openai_type,
        "param": "model",
        "code": row.openai_code,
    }
    assert ("retry-after" in answer.headers) == (reason in (Reason.QUEUE_FULL, Reason.NOT_READY))


@pytest.mark.parametrize(
    ("path", "param", "message", "sent_param", "told_message"),
    [
        (EMBED, "input", "input[0] is 21 tokens", "input", "input[0] is 21 tokens"),
        (TEI_EMBED, "input", "input[0] is 21 tokens", "inputs", "inputs[0] is 21 tokens"),
        (TEI_EMBED, "inputs", "inputs is one already", "inputs", "inputs is one already"),
        (V1, "documents", "documents holds 1001 texts", "documents", "documents holds 1001 texts"),
        (TEI, "documents[3]", "documents[3] is long", "texts[3]", "texts[3] is long"),
        (TEI, "query", "query is long", "query", "query is long"),
        (SCORE, "documents", "documents holds 1001 texts", "text_2", "text_2 holds 1001 texts"),
        (SCORE, "query", "query is long", "text_1", "text_1 is long"),
        (SCORE, None, "the query of all documents", None, "the query of all documents"),
    ],
)
async def test_what_a_worker_finds_fault_with_is_named_as_the_client_sent_it(
    mesh: Mesh, path: str, param: str | None, message: str, sent_param: str | None, told_message: str
) -> None:
    mesh.triton.script = [ErrorText(encode_error(MeshError(Reason.INVALID_REQUEST, message, param=param)))]

    error = told(await mesh.http.post(path, json=GOOD[path]), path)

    assert (error["param"], error["message"]) == (sent_param, told_message)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("script", [[], [vectors(), vectors()], [scores(0.1, 0.2)], [vectors([1.0], [2.0])]])
async def test_an_answer_that_is_not_one_per_input_is_a_failure(mesh: Mesh, path: str, script: list[object]) -> None:
    mesh.triton.script = script

    answer = await mesh.http.post(path, json=GOOD[path])

    assert answer.status_code == 500
    assert "its id is" in str(told(answer, path)["message"])


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (Reason.INVALID_REQUEST, "validation"),
        (Reason.QUEUE_FULL, "overloaded"),
        (Reason.NOT_READY, "unhealthy"),
        (Reason.UPSTREAM_LOST, "backend"),
    ],
)
async def test_tei_clients_get_its_words_for_a_failure(mesh: Mesh, reason: Reason, word: str) -> None:
    mesh.triton.script = [ErrorText(encode_error(MeshError(reason, "no")))]

    answer = await mesh.http.post(TEI, json=GOOD[TEI])

    assert (answer.json()["error"], answer.json()["error_type"]) == ("no", word)


async def test_a_body_of_the_wrong_type_or_size_is_told_in_the_routes_words(mesh: Mesh) -> None:
    wrong = await mesh.http.post(TEI, content=b"q", headers={"content-type": "text/plain"})
    large = await mesh.http.post(V2, content=b" " * 200_000, headers={"content-type": "application/json"})

    assert (wrong.status_code, told(wrong, TEI)["code"]) == (415, "unsupported_media_type")
    assert (large.status_code, told(large, V2)["code"]) == (413, "request_too_large")
