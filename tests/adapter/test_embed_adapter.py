"""The embedding worker from the request's bytes to the response's, over an encoder that counts words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import Reason
from meshkit.wire import Operation
from tests.adapter.unary_calls import answer, failure
from tests.fakes.encoder import FakeEncoder
from zhinao.embedding.v1 import embedding_pb2


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def embed(start_unary: Callable[..., Any], encoder: FakeEncoder) -> Any:
    from services.embed_worker.adapter import EmbedModel
    from services.embed_worker.settings import EmbedSettings

    settings = EmbedSettings(model_id="words", model_path=Path(), max_inputs=3)
    return start_unary(EmbedModel(encoder, settings), Operation.EMBED, settings)  # type: ignore[arg-type]


def texts(*words: str, **fields: Any) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text=each) for each in words], **fields)


def test_vectors_come_in_order_with_usage_space_and_what_was_cut(embed: Any) -> None:
    long = "a " * 10
    tokens = embedding_pb2.EmbedInput(tokens=embedding_pb2.EmbedTokens(ids=[5, 6]))
    request = texts("one two", long)
    request.inputs.append(tokens)

    response = embedding_pb2.EmbedResponse.FromString(answer(embed, request))

    assert [list(each.values) for each in response.embeddings] == [[2, 6, 0, 0], [8, 8, 0, 0], [2, 11, 0, 0]]
    assert [each.truncated_tokens for each in response.embeddings] == [0, 2, 0]
    assert (response.usage.prompt_tokens, response.model, response.space) == (12, "words", "fake-4")


def test_what_was_left_open_stays_open_for_the_encoder(embed: Any, encoder: FakeEncoder) -> None:
    answer(embed, texts("x"))
    asked = {"instruction": "", "truncate": embedding_pb2.TRUNCATE_START, "space": "fake-2", "dimensions": 2}
    cut = answer(embed, texts("x", input_type=embedding_pb2.INPUT_TYPE_QUERY, model="words", **asked))

    silent, spoken = encoder.requests
    assert (silent.is_query, silent.instruction, silent.dimensions, silent.space) == (False, None, None, None)
    assert silent.truncate == "error"
    assert (spoken.is_query, spoken.instruction, spoken.dimensions, spoken.space) == (True, "", 2, "fake-2")
    assert spoken.truncate == "start"
    response = embedding_pb2.EmbedResponse.FromString(cut)
    assert (list(response.embeddings[0].values), response.space) == ([1, 1], "fake-2")


@pytest.mark.parametrize(
    ("data", "reason", "param", "words"),
    [
        (b"\xff", Reason.INVALID_REQUEST, None, "EmbedRequest"),
        (texts().SerializeToString(), Reason.INVALID_REQUEST, "input", "0 texts"),
        (texts(*"abcd").SerializeToString(), Reason.INVALID_REQUEST, "input", "4 texts; it must hold 1 to 3"),
        (texts("x", model="other").SerializeToString(), Reason.MODEL_NOT_FOUND, "model", "other"),
        (texts("x", space="other").SerializeToString(), Reason.SPACE_MISMATCH, "space", "another space"),
        (texts("x", truncate=9).SerializeToString(), Reason.INVALID_REQUEST, "truncate", "9"),
        (
            embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput()]).SerializeToString(),
            *(Reason.INVALID_REQUEST, "input", "neither text nor tokens"),
        ),
    ],
)
def test_a_bad_embedding_request_is_named(
    embed: Any, data: bytes, reason: Reason, param: str | None, words: str
) -> None:
    error = failure(embed, data)

    assert (error.reason, error.param) == (reason, param)
    assert words in error.message
