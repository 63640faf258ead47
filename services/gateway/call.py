"""Decides what is remembered about one request while it is served, across HTTP, gRPC and upstream code."""

import hashlib
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
    """One request. model and the token counts are filled in by whoever learns them, for the log line.

    tenant: tells who asks apart, without telling the key that the client sent; empty for one that sent none.
    """

    request_id: str
    tenant: str = ""
    traceparent: str | None = None  # W3C Trace Context, passed on unread
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    begun_s: float = field(default_factory=time.perf_counter)


CURRENT: Final[ContextVar[Call]] = ContextVar("call")


def begin_call(request_id: str | None, traceparent: str | None, authorization: str | None) -> Call:
    """Start a request's record from what its client sent; an id that could forge log lines or headers is replaced."""
    call = Call(
        _matching(_SANE_ID, request_id) or uuid.uuid4().hex,
        _tenant(authorization or ""),
        _matching(_TRACEPARENT, traceparent),
    )
    CURRENT.set(call)
    return call


def _tenant(authorization: str) -> str:
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return ""
    return hashlib.blake2b(key.strip().encode(), digest_size=16, person=b"mesh-tenant").hexdigest()


def _matching(pattern: re.Pattern[str], text: str | None) -> str | None:
    return text if text is not None and pattern.fullmatch(text) else None
