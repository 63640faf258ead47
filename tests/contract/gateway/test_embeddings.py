"""POST /v1/embeddings and TEI's POST /embed: what reaches the worker, and how its vectors come back."""

import base64
import json
import math

import numpy as np
import pytest

from tests.contract.gateway.conftest import Mesh
from tests.fakes.triton import vectors
from zhinao.embedding.v1.embedding_pb2 import (
    INPUT_TYPE_PASSAGE,
    INPUT_TYPE_QUERY,
    INPUT_TYPE_UNSPECIFIED,
    TRUNCATE_END,
    TRUNCATE_ERROR,
    TRUNCATE_START,
    TRUNCATE_UNSPECIFIED,
    EmbedInput,
    EmbedTokens,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

EMBED = "/v1/embeddings"
TWO = ([0.6, -0.8], [1e-7, 1 / 3])


def text(value: str) -> EmbedInput:
    return EmbedInput(text=value)


def tokens(*ids: int) -> EmbedInput:
    return EmbedInput(tokens=EmbedTokens(ids=ids))


async def test_the_answer_has_openais_shape_and_tells_space_and_cut_tokens(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([0.5, -0.25], [0.0, 1.0], truncated=[0, 3])]

    answer = await mesh.http.post(EMBED, json={"input": ["a", "你好"]})

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]},
            {"object": "embedding", "index": 1, "embedding": [0.0, 1.0]},
        ],
        "model": "zhinao-embed",
        "usage": {"prompt_tokens": 7, "total_tokens": 7, "truncated_tokens": [0, 3]},
        "space": "space-1",
    }


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("a", [text("a")]),
        (["a"], [text("a")]),
        (["a", "b"], [text("a"), text("b")]),
        ([1, 0], [tokens(1, 0)]),
        ([[1], [2, 2**32 - 1]], [tokens(1), tokens(2, 2**32 - 1)]),
        (["a", [1]], [text("a"), tokens(1)]),
    ],
)
async def test_every_form_of_input_reaches_the_worker(mesh: Mesh, value: object, inputs: list[EmbedInput]) -> None:
    mesh.triton.script = [vectors(*[[1.0]] * len(inputs))]

    answer = await mesh.http.post(EMBED, json={"input": value})

    assert answer.status_code == 200, answer.text
    assert list(mesh.triton.embed_request.inputs) == inputs


async def test_what_is_left_out_stays_unset(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([1.0])]

    await mesh.http.post(EMBED, json={"input": "a", "user": "me"}, headers={"x-request-id": "trace-7"})

    request = mesh.triton.embed_request
    assert (request.model, request.request_id) == ("zhinao-embed", "trace-7")
    assert (request.input_type, request.truncate) == (INPUT_TYPE_UNSPECIFIED, TRUNCATE_UNSPECIFIED)
    assert not any(map(request.HasField, ("dimensions", "instruction", "space")))
    (received,) = mesh.triton.received
    assert (received.triton_model, received.operation) == ("embed", "embed")
    assert received.metadata["x-mesh-model"] == "zhinao-embed"


async def test_every_option_reaches_the_worker(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([1.0])]
    options = {"dimensions": 8, "instruction": "", "space": "space-1", "model": "zhinao-embed"}

    await mesh.http.post(EMBED, json={"input": "a", **options})

    request = mesh.triton.embed_request
    assert (request.dimensions, request.space) == (8, "space-1")
    assert request.HasField("instruction") and request.instruction == ""


@pytest.mark.parametrize(
    ("spelling", "meaning"),
    [
        ("query", INPUT_TYPE_QUERY),
        ("search_query", INPUT_TYPE_QUERY),
        ("passage", INPUT_TYPE_PASSAGE),
        ("document", INPUT_TYPE_PASSAGE),
        ("search_document", INPUT_TYPE_PASSAGE),
    ],
)
async def test_other_clients_words_for_query_and_passage_are_understood(
    mesh: Mesh, spelling: str, meaning: int
) -> None:
    mesh.triton.script = [vectors([1.0])]

    await mesh.http.post(EMBED, json={"input": "a", "input_type": spelling})

    assert mesh.triton.embed_request.input_type == meaning


@pytest.mark.parametrize(
    ("spelling", "meaning"),
    [
        ("error", TRUNCATE_ERROR),
        ("NONE", TRUNCATE_ERROR),
        (False, TRUNCATE_ERROR),
        ("end", TRUNCATE_END),
        ("END", TRUNCATE_END),
        (True, TRUNCATE_END),
        ("Start", TRUNCATE_START),
        (None, TRUNCATE_UNSPECIFIED),
    ],
)
async def test_other_clients_words_for_truncation_are_understood(mesh: Mesh, spelling: object, meaning: int) -> None:
    mesh.triton.script = [vectors([1.0])]

    await mesh.http.post(EMBED, json={"input": "a", "truncate": spelling})

    assert mesh.triton.embed_request.truncate == meaning


async def test_floats_keep_every_bit_in_few_digits(mesh: Mesh) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    mesh.triton.script = [vectors(*rows.tolist())]

    answer = await mesh.http.post(EMBED, json={"input": ["a", "b", "c"]})

    found = np.array([each["embedding"] for each in answer.json()["data"]], np.float32)
    np.testing.assert_array_equal(found, rows)
    assert len(answer.text) < rows.size * 14


async def test_base64_is_little_endian_float32(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([1.0, -2.0])]

    answer = await mesh.http.post(EMBED, json={"input": "a", "encoding_format": "base64"})

    (body,) = answer.json()["data"]
    assert base64.b64decode(body["embedding"]) == b"\x00\x00\x80\x3f\x00\x00\x00\xc0"


async def test_the_openai_client_reads_floats_and_base64_alike(mesh: Mesh) -> None:
    mesh.triton.script = [vectors(*TWO, truncated=[2])]

    as_base64 = await mesh.openai.embeddings.create(model="zhinao-embed", input=["a", "b"])  # its default
    as_float = await mesh.openai.embeddings.create(model="zhinao-embed", input=["a", "b"], encoding_format="float")

    for answer in (as_base64, as_float):
        found = np.array([each.embedding for each in answer.data], np.float32)
        np.testing.assert_array_equal(found, np.array(TWO, np.float32))
        assert [each.index for each in answer.data] == [0, 1]
        assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("zhinao-embed", 7, 7)
        assert answer.model_extra == {"space": "space-1"}
        assert answer.usage.model_extra == {"truncated_tokens": [2, 0]}


async def test_the_openai_client_reads_an_answer_of_no_finite_number(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([math.nan])]

    answer = await mesh.openai.embeddings.create(model="zhinao-embed", input="a")

    assert math.isnan(answer.data[0].embedding[0])


async def test_unknown_fields_are_accepted_and_listed(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([1.0])]

    answer = await mesh.http.post(EMBED, json={"input": "a", "embedding_types": ["float"], "bad\nname": 1})

    assert answer.status_code == 200
    assert answer.headers["x-ignored-params"] == "embedding_types, bad%0Aname"


async def test_tei_gets_bare_vectors(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([0.5, -0.25], [0.0, 1.0])]
    body = {"inputs": ["a", "b"], "normalize": True, "prompt_name": "query", "dimensions": 2, "truncate": False}

    answer = await mesh.http.post("/embed", json=body)

    assert answer.json() == [[0.5, -0.25], [0.0, 1.0]]
    request = mesh.triton.embed_request
    assert list(request.inputs) == [text("a"), text("b")]
    assert (request.input_type, request.dimensions, request.truncate) == (INPUT_TYPE_QUERY, 2, TRUNCATE_ERROR)


@pytest.mark.parametrize(
    ("options", "meaning"),
    [
        ({}, TRUNCATE_UNSPECIFIED),
        ({"truncate": True}, TRUNCATE_END),
        ({"truncate": True, "truncation_direction": "Left"}, TRUNCATE_START),
        ({"truncate": True, "truncation_direction": "right"}, TRUNCATE_END),
        ({"truncate": False, "truncation_direction": "left"}, TRUNCATE_ERROR),
    ],
)
async def test_tei_names_the_side_that_is_cut(mesh: Mesh, options: dict[str, object], meaning: int) -> None:
    mesh.triton.script = [vectors([1.0])]

    await mesh.http.post("/embed", json={"inputs": "a", **options})

    assert mesh.triton.embed_request.truncate == meaning


async def test_many_vectors_are_written_in_one_piece(mesh: Mesh) -> None:
    rows = np.random.default_rng(1).standard_normal((2048, 384)).astype(np.float32)
    mesh.triton.script = [vectors(*rows.tolist())]

    answer = await mesh.http.post(EMBED, json={"input": ["a"] * 2048})

    found = np.array([each["embedding"] for each in json.loads(answer.content)["data"]], np.float32)
    np.testing.assert_array_equal(found, rows)
