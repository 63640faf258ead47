"""Decides what is remembered about one request while it is served, across HTTP, gRPC and upstream code."""

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

_SANE_ID: Final = re.compile(r"[!-~]{1,128}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Call:
    """One request. model and the token counts are filled in by whoever learns them, for the log line."""

    request_id: str
    traceparent: str | None = None  # W3C Trace Context, passed on unread
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    begun_s: float = field(default_factory=time.perf_counter)


def begin_call(request_id: str | None, traceparent: str | None) -> Call:
    """Start a request's record from what its client sent; what is not sane (ids that could forge logs) is replaced."""
    sane = request_id is not None and _SANE_ID.fullmatch(request_id)
    traced = traceparent is not None and _TRACEPARENT.fullmatch(traceparent)
    call = Call(
        request_id=request_id if sane and request_id else uuid.uuid4().hex, traceparent=traceparent if traced else None
    )
    CURRENT.set(call)
    return call


CURRENT: Final[ContextVar[Call]] = ContextVar("call")
