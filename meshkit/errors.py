"""Names every way a request can fail and says, in one table, how each protocol spells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from grpc import StatusCode


class Reason(StrEnum):
    """Stable words for failures; they travel in gRPC details, Triton messages and logs."""

    INVALID_REQUEST = "INVALID_REQUEST"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    WRONG_CONTENT_TYPE = "WRONG_CONTENT_TYPE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    SPACE_MISMATCH = "SPACE_MISMATCH"
    TOO_LARGE = "TOO_LARGE"
    TENANT_LIMIT = "TENANT_LIMIT"
    QUEUE_FULL = "QUEUE_FULL"
    CLIENT_CANCELLED = "CLIENT_CANCELLED"
    NOT_READY = "NOT_READY"
    UPSTREAM_LOST = "UPSTREAM_LOST"
    DEADLINE = "DEADLINE"
    UNKNOWN_RPC = "UNKNOWN_RPC"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. triton is the name of a TritonError code, or None where a worker never says it."""

    grpc: StatusCode
    triton: str | None
    http: int
    openai_type: str
    openai_code: str | None = None


_INVALID = "invalid_request_error"

TABLE: Final[Mapping[Reason, Row]] = MappingProxyType(
    {
        Reason.INVALID_REQUEST: Row(StatusCode.INVALID_ARGUMENT, "INVALID_ARG", 400, _INVALID, "invalid_value"),
        Reason.PROMPT_TOO_LONG: Row(
            StatusCode.INVALID_ARGUMENT, "INVALID_ARG", 400, _INVALID, "context_length_exceeded"
        ),
        Reason.NOT_SUPPORTED: Row(StatusCode.INVALID_ARGUMENT, "INVALID_ARG", 400, _INVALID, "unsupported_parameter"),
        Reason.WRONG_CONTENT_TYPE: Row(StatusCode.INVALID_ARGUMENT, None, 415, _INVALID, "unsupported_media_type"),
        Reason.UNAUTHENTICATED: Row(StatusCode.UNAUTHENTICATED, None, 401, "authentication_error", "invalid_api_key"),
        Reason.FORBIDDEN: Row(StatusCode.PERMISSION_DENIED, None, 403, "permission_error", "model_not_allowed"),
        Reason.MODEL_NOT_FOUND: Row(StatusCode.NOT_FOUND, "NOT_FOUND", 404, _INVALID, "model_not_found"),
        Reason.ROUTE_NOT_FOUND: Row(StatusCode.NOT_FOUND, None, 404, _INVALID, "unknown_url"),
        Reason.METHOD_NOT_ALLOWED: Row(StatusCode.UNIMPLEMENTED, None, 405, _INVALID, "method_not_allowed"),
        Reason.SPACE_MISMATCH: Row(StatusCode.FAILED_PRECONDITION, "INVALID_ARG", 409, "conflict_error"),
        Reason.TOO_LARGE: Row(StatusCode.INVALID_ARGUMENT, None, 413, _INVALID, "request_too_large"),
        Reason.TENANT_LIMIT: Row(StatusCode.RESOURCE_EXHAUSTED, None, 429, "rate_limit_error", "rate_limit_exceeded"),
        Reason.QUEUE_FULL: Row(
            StatusCode.RESOURCE_EXHAUSTED, "UNAVAILABLE", 503, "overloaded_error", "server_overloaded"
        ),
        Reason.CLIENT_CANCELLED: Row(StatusCode.CANCELLED, "CANCELLED", 499, _INVALID),
        Reason.NOT_READY: Row(StatusCode.UNAVAILABLE, "UNAVAILABLE", 503, "server_error", "not_ready"),
        Reason.UPSTREAM_LOST: Row(StatusCode.UNAVAILABLE, None, 502, "server_error", "upstream_unavailable"),
        Reason.DEADLINE: Row(StatusCode.DEADLINE_EXCEEDED, "CANCELLED", 504, "timeout", "deadline_exceeded"),
        Reason.UNKNOWN_RPC: Row(StatusCode.UNIMPLEMENTED, "UNSUPPORTED", 501, _INVALID),
        Reason.INTERNAL: Row(StatusCode.INTERNAL, "INTERNAL", 500, "server_error"),
    }
)


_LONGEST: Final = 1_000  # bytes of a message or a param; gRPC's trailers hold both twice, and 16 KiB of them are many


def _cut(text: str) -> str:
    data = text.encode(errors="surrogatepass")
    return text if len(data) <= _LONGEST else data[:_LONGEST].decode(errors="ignore") + "…"


class MeshError(Exception):
    """A failure that has a name; its message may be shown to the client.

    message, param: what is too long to be read is cut, as they may repeat whatever the client sent.
    param: the request field at fault, as the client spelled it, e.g. `messages` or `stop`.
    code: an OpenAI code finer than the table's, e.g. `missing_required_parameter`.
    retry_after_s: how long the client should wait before it asks again, where that is known.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.message = _cut(message)
        self.param = None if param is None else _cut(param)
        super().__init__(self.message)
        self.reason = reason
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def row(self) -> Row:
        """The table's line for this failure."""
        return TABLE[self.reason]
