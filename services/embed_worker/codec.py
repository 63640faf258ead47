"""Translates between the protobuf contract and the worker's own types; no other file of the worker knows protobuf."""

from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from meshkit.errors import MeshError, Reason
from services.embed_worker.request import Embedding, EmbedRequest, Truncate
from workerkit.checks import check_model, check_num_texts
from zhinao.common.v1 import common_pb2
from zhinao.embedding.v1 import embedding_pb2

_TRUNCATE: Final[Mapping[int, Truncate]] = {
    embedding_pb2.TRUNCATE_UNSPECIFIED: Truncate.ERROR,
    embedding_pb2.TRUNCATE_ERROR: Truncate.ERROR,
    embedding_pb2.TRUNCATE_END: Truncate.END,
    embedding_pb2.TRUNCATE_START: Truncate.START,
}


def decode_request(data: bytes, *, model_id: str, max_inputs: int) -> EmbedRequest:
    """Read a serialised EmbedRequest. Raises MeshError if it is none, is for another model or holds too much."""
    try:
        message = embedding_pb2.EmbedRequest.FromString(data)
    except DecodeError as error:
        raise MeshError(Reason.INVALID_REQUEST, "the request tensor holds no EmbedRequest") from error
    check_model(message.model, model_id)
    check_num_texts(len(message.inputs), max_inputs, "input")
    return EmbedRequest(
        inputs=tuple(_decode_input(index, each) for index, each in enumerate(message.inputs)),
        is_query=message.input_type == embedding_pb2.INPUT_TYPE_QUERY,
        instruction=message.instruction if message.HasField("instruction") else None,
        dimensions=message.dimensions if message.HasField("dimensions") else None,
        truncate=_decode_truncate(message.truncate),
        space=message.space if message.HasField("space") else None,
    )


def encode_response(embeddings: Sequence[Embedding], *, num_tokens: int, model: str, space: str) -> bytes:
    """Write an EmbedResponse. num_tokens: that were computed, of all inputs together."""
    return embedding_pb2.EmbedResponse(
        embeddings=[
            embedding_pb2.Embedding(values=each.values.tolist(), truncated_tokens=each.truncated_tokens)
            for each in embeddings
        ],
        usage=common_pb2.Usage(prompt_tokens=num_tokens),
        model=model,
        space=space,
    ).SerializeToString()


def _decode_input(index: int, message: embedding_pb2.EmbedInput) -> str | tuple[int, ...]:
    match message.WhichOneof("input"):
        case "text":
            return message.text
        case "tokens":
            return tuple(message.tokens.ids)
        case None:
            raise MeshError(Reason.INVALID_REQUEST, f"input {index} is neither text nor tokens", param="input")


def _decode_truncate(value: int) -> Truncate:
    if value not in _TRUNCATE:
        raise MeshError(Reason.INVALID_REQUEST, f"truncate {value} is none that this worker knows", param="truncate")
    return _TRUNCATE[value]
