"""What both ends of the Triton call agree on: tensor and parameter names, and how a failure crosses as text."""

import re
from enum import StrEnum
from typing import Final

from meshkit.errors import MeshError, Reason

REQUEST_TENSOR: Final = "request"  # BYTES [1]: one serialised zhinao.*.v1 request
RESPONSE_TENSOR: Final = "response"  # BYTES [1]: one serialised zhinao.*.v1 response
OPERATION_PARAMETER: Final = "operation"  # Triton request parameter; absent means the work of the worker's kind
TRACE_PARAMETER: Final = "traceparent"  # W3C Trace Context of the caller, which Triton makes of the metadata of a call
THREADS_PARAMETER: Final = "threads"  # of a ping: how many threads the worker computes with from now on
MODEL_HEADER: Final = "x-mesh-model"  # gRPC metadata by which Envoy picks the workers of a served model id
AFFINITY_HEADER: Final = (
    "x-mesh-affinity"  # and one of several: calls of the same value meet the same one, if it has room
)
MOST_ANSWERS: Final = 128  # n of one request; more is refused before anything is kept for each
PING_TIMEOUT_S: Final = 1.5  # an engine answers between two steps; with the pause of who asks, 2 s in all


class Operation(StrEnum):
    """What a call asks of a worker: the work of its kind, what its tokenizer knows, or a sign of life."""

    GENERATE = "generate"
    EMBED = "embed"
    RERANK = "rerank"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    PING = "ping"  # answered by the thread that computes, with no model forward and an empty response


_ERROR: Final = re.compile(r"\[mesh (?P<reason>[A-Z_]+)(?: param=(?P<param>\S+))?\] (?P<message>.*)", re.DOTALL)


def encode_error(error: MeshError) -> str:
    """Spell a failure as a Triton error message; Triton carries only a short code of its own beside the text."""
    param = f" param={error.param}" if error.param else ""
    return f"[mesh {error.reason}{param}] {error.message}"


def decode_error(text: str) -> MeshError | None:
    """Read back what encode_error wrote, whatever Triton put in front; None if the text is not ours."""
    found = _ERROR.search(text)
    if found is None or found["reason"] not in Reason.__members__:
        return None
    return MeshError(Reason(found["reason"]), found["message"], param=found["param"])
