"""Translates embeddings between OpenAI's JSON, or TEI's, and protobuf."""

import base64
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.gateway.openai.embeddings import EmbeddingList, EmbeddingRequest, Encoding
from services.gateway.search.tei import TeiEmbedRequest
from zhinao.embedding.v1.embedding_pb2 import (
    INPUT_TYPE_PASSAGE,
    INPUT_TYPE_QUERY,
    INPUT_TYPE_UNSPECIFIED,
    TRUNCATE_END,
    TRUNCATE_ERROR,
    TRUNCATE_START,
    TRUNCATE_UNSPECIFIED,
    Embedding,
    EmbedInput,
    EmbedRequest,
    EmbedResponse,
    EmbedTokens,
)

_INPUT_TYPES: Final = {
    None: INPUT_TYPE_UNSPECIFIED,
    "query": INPUT_TYPE_QUERY,
    "search_query": INPUT_TYPE_QUERY,
    "passage": INPUT_TYPE_PASSAGE,
    "document": INPUT_TYPE_PASSAGE,
    "search_document": INPUT_TYPE_PASSAGE,
}
_TRUNCATIONS: Final = {
    None: TRUNCATE_UNSPECIFIED,
    "error": TRUNCATE_ERROR,
    "end": TRUNCATE_END,
    "start": TRUNCATE_START,
}
_COMPONENT: Final = np.dtype("<f4")


def to_embed_request(body: EmbeddingRequest) -> EmbedRequest:
    """OpenAI's request as ours."""
    return EmbedRequest(
        model=body.model or "",
        inputs=_to_inputs(body.input),
        input_type=_INPUT_TYPES[body.input_type],
        dimensions=body.dimensions,
        truncate=_TRUNCATIONS[body.truncate],
        instruction=body.instruction,
        space=body.space,
    )


def from_tei_embed(body: TeiEmbedRequest) -> EmbedRequest:
    """TEI's request as ours."""
    from_start = body.truncate == "end" and (body.truncation_direction or "").lower() == "left"
    return EmbedRequest(
        model=body.model or "",
        inputs=_to_inputs(body.inputs),
        input_type=_INPUT_TYPES[body.prompt_name],
        dimensions=body.dimensions,
        truncate=TRUNCATE_START if from_start else _TRUNCATIONS[body.truncate],
    )


def to_embedding_list(response: EmbedResponse, encoding: Encoding | None) -> EmbeddingList:
    """The answer as OpenAI's."""
    as_base64 = encoding == "base64"
    vectors = map(_packed, response.embeddings)
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector).decode() if as_base64 else _unpacked(vector),
            }
            for index, vector in enumerate(vectors)
        ],
        "model": response.model,
        "usage": {
            "prompt_tokens": response.usage.prompt_tokens,
            "total_tokens": response.usage.prompt_tokens,
            "truncated_tokens": [embedding.truncated_tokens for embedding in response.embeddings],
        },
        "space": response.space,
    }


def to_vectors(response: EmbedResponse) -> list[NDArray[np.float32]]:
    """The bare vectors, as TEI answers."""
    return [_unpacked(_packed(embedding)) for embedding in response.embeddings]


def _packed(embedding: Embedding) -> bytes:
    """The vector as little-endian float32, which is how protobuf itself lays it out.

    Read from there: a protobuf list makes a Python object of every component, which is ten times slower.
    """
    num_bytes = _COMPONENT.itemsize * len(embedding.values)
    begin = 1 + (num_bytes.bit_length() + 6) // 7  # behind the field's tag and its length, seven bits of it to a byte
    return embedding.SerializeToString()[begin : begin + num_bytes]


def _unpacked(vector: bytes) -> NDArray[np.float32]:
    return np.frombuffer(vector, _COMPONENT)


def _to_inputs(inputs: Sequence[str | list[int]]) -> list[EmbedInput]:
    return [
        EmbedInput(text=each) if isinstance(each, str) else EmbedInput(tokens=EmbedTokens(ids=each)) for each in inputs
    ]
