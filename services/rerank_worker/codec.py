"""Translates between the protobuf contract and the worker's own types; no other file of the worker knows protobuf."""

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from meshkit.errors import MeshError, Reason
from services.rerank_worker.request import RerankRequest
from workerkit.checks import check_model, check_num_texts
from zhinao.common.v1 import common_pb2
from zhinao.rerank.v1 import rerank_pb2


class Score(NamedTuple):
    """Of one document."""

    relevance: float
    raw: float
    truncated_tokens: int


def decode_request(data: bytes, *, model_id: str, max_documents: int) -> RerankRequest:
    """Read a serialised RerankRequest. Raises MeshError if it is none, is for another model or holds too much."""
    try:
        message = rerank_pb2.RerankRequest.FromString(data)
    except DecodeError as error:
        raise MeshError(Reason.INVALID_REQUEST, "the request tensor holds no RerankRequest") from error
    check_model(message.model, model_id)
    check_num_texts(len(message.documents), max_documents, "documents")
    has_limit = message.HasField("max_tokens_per_document")
    return RerankRequest(
        query=message.query,
        documents=tuple(message.documents),
        max_tokens_per_document=message.max_tokens_per_document if has_limit else None,
    )


def encode_response(scores: Sequence[Score], *, num_tokens: int, model: str, threshold: float | None) -> bytes:
    """Write a RerankResponse. num_tokens: that were computed, of all pairs together."""
    return rerank_pb2.RerankResponse(
        scores=[rerank_pb2.RerankScore(**score._asdict()) for score in scores],
        usage=common_pb2.Usage(prompt_tokens=num_tokens),
        model=model,
        threshold=threshold,
    ).SerializeToString()
