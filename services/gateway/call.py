"""Decides what is remembered about one request while it is served, across HTTP, gRPC and upstream code."""

import hashlib
import re
import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.trace import INVALID_SPAN, Span
from opentelemetry.util.types import AttributeValue

from meshkit.errors import MeshError, Reason
from services.gateway.tenancy.keys import Grant

_SANE_ID: Final = re.compile(r"[!-~]{1,128}")
TIMEOUT_HEADER: Final = "x-request-timeout"
LONGEST_TIMEOUT_S: Final = 999_999
_SECONDS: Final = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?")  # a number of JSON's: float() takes more, such as "nan"
PROBES: Final = frozenset({"/health", "/ready", "/serving", "/metrics"})  # asked all the time, by machines
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Call:
    """One request. model and the token counts are filled in by whoever learns them, for the log line.

    tenant: tells who asks apart, without telling the key that the client sent; empty for one that sent none.
    strict: fields that have no effect are refused, as the key or the body wants it.
    grant: the key, in a mesh that asks for keys. is_counted: whether the key's requests hold this one.
    limit_headers: what is left of its limits. ignored: fields that the worker found to have no effect.
    was_lost: with a worker, so that it goes to whichever other there is.
    """

    request_id: str
    tenant: str = ""
    strict: bool = False
    traceparent: str | None = None  # W3C Trace Context, of the client or of our own span below it
    span: Span = INVALID_SPAN
    operation: str | None = None  # what was asked of a worker, in OpenTelemetry's word
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    finish_reasons: list[str] = field(default_factory=list[str])  # of its answers, in the order of their ends
    parameters: dict[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])  # for its span
    grant: Grant | None = None
    is_counted: bool = False
    limit_headers: dict[str, str] = field(default_factory=dict[str, str])
    ignored: list[str] = field(default_factory=list[str])
    was_lost: bool = False
    timeout: float | str | None = None  # seconds that the client gives for the whole answer; of HTTP, as it sent them
    begun_s: float = field(default_factory=time.perf_counter)
    asked_s: float | None = None  # when a worker was first asked, its first token and its latest piece came; same clock
    first_token_s: float | None = None
    answered_s: float | None = None

    @property
    def trace_id(self) -> str | None:
        """Of the trace that this request is part of, if any."""
        return self.traceparent.split("-")[1] if self.traceparent else None

    def headers(self) -> dict[str, str]:
        """What every HTTP answer says: whose it is, and where its time went until now, in milliseconds."""
        total_ms = f"{(time.perf_counter() - self.begun_s) * 1000:.1f}"
        timing = f"total;dur={total_ms}"
        if self.asked_s is not None and self.answered_s is not None:
            timing += f", worker;dur={(self.answered_s - self.asked_s) * 1000:.1f}"
        return {
            "x-request-id": self.request_id,
            "openai-processing-ms": total_ms,
            "server-timing": timing,
            **self.limit_headers,
        }

    def time_left_s(self) -> float | None:
        """What is left of the time that the client gave; None if it gave none.

        Raises MeshError: INVALID_REQUEST if that is no time, DEADLINE if it is over.
        """
        if self.timeout is None:
            return None
        timeout_s = _to_seconds(self.timeout) if isinstance(self.timeout, str) else self.timeout
        left_s = timeout_s - (time.perf_counter() - self.begun_s)
        if left_s <= 0:
            message = f"the {timeout_s:g} s that the client gave were over before a worker was asked"
            raise MeshError(Reason.DEADLINE, message)
        return left_s

    def ignore(self, names: Iterable[str]) -> None:
        """Note fields that have no effect. NOT_SUPPORTED if the request is strict."""
        for name in names:
            if self.strict:
                raise no_effect(name)
            self.ignored.append(name)

    def may_use(self, model: str) -> bool:
        """Whether the caller's key allows that model; without keys everybody may."""
        return self.grant is None or self.grant.key.limits.allow(model)


CURRENT: Final[ContextVar[Call]] = ContextVar("call")


def no_effect(name: str) -> MeshError:
    """Why a strict request with that field is refused."""
    message = f"{ascii(name)[1:-1]:.80} has no effect here, and the request is strict; leave it out"
    return MeshError(Reason.NOT_SUPPORTED, message, param=name)


def begin_call(request_id: str | None, traceparent: str | None, authorization: str | None) -> Call:
    """Start a request's record from what its client sent; an id that could forge log lines or headers is replaced."""
    call = Call(
        _matching(_SANE_ID, request_id) or uuid.uuid4().hex,
        _tenant(authorization or ""),
        traceparent=_matching(_TRACEPARENT, traceparent),
    )
    CURRENT.set(call)
    return call


def _to_seconds(header: str) -> float:
    seconds = float(header) if _SECONDS.fullmatch(header) else 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        most = f"a number of seconds above 0 and at most {LONGEST_TIMEOUT_S}"
        raise MeshError(
            Reason.INVALID_REQUEST, f"{TIMEOUT_HEADER} must be {most}, it is {header!r:.40}", param=TIMEOUT_HEADER
        )
    return seconds


def _tenant(authorization: str) -> str:
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return ""
    return hashlib.blake2b(key.strip().encode(), digest_size=16, person=b"mesh-tenant").hexdigest()


def _matching(pattern: re.Pattern[str], text: str | None) -> str | None:
    return text if text is not None and pattern.fullmatch(text) else None
