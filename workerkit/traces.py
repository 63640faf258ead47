"""Writes a request and its parts as spans once it has ended; knows no Triton and nothing of the model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from meshkit import telemetry

Attributes = Mapping[str, AttributeValue]


class Part(NamedTuple):
    """A stretch of a request's life. Times are of the worker's clock, in seconds."""

    name: str
    start_s: float
    end_s: float
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """What is remembered of one request until it ends. begun_s: of the clock, in seconds."""

    tracer: Tracer
    operation: str
    model_id: str
    request_id: str
    parent: Context
    begun_s: float
    clock: Callable[[], float]

    def age_s(self) -> float:
        """How long ago the request arrived, in seconds."""
        return self.clock() - self.begun_s

    def end(self, attributes: Attributes, parts: Sequence[Part], error_type: str | None = None) -> None:
        """Write the spans: the request, and its parts below it."""
        now_ns, now_s = time.time_ns(), self.clock()

        def wall(at_s: float) -> int:
            return now_ns - round((now_s - at_s) * 1e9)

        own: Attributes = {
            telemetry.OPERATION: self.operation,
            telemetry.PROVIDER: telemetry.PROVIDER_NAME,
            telemetry.REQUEST_MODEL: self.model_id,
            telemetry.REQUEST_ID: self.request_id,
        }
        name = f"{self.operation} {self.model_id}"
        span = self.tracer.start_span(
            name, self.parent, SpanKind.SERVER, {**own, **attributes}, start_time=wall(self.begun_s)
        )
        if error_type is not None:
            span.set_attribute(telemetry.ERROR_TYPE, error_type)
            span.set_status(Status(StatusCode.ERROR))
        context = set_span_in_context(span)
        for part in parts:
            child = self.tracer.start_span(
                part.name, context, attributes=part.attributes, start_time=wall(part.start_s)
            )
            child.end(wall(part.end_s))
        span.end(now_ns)


@dataclass(frozen=True, slots=True)
class RequestTracer:
    """Begins the traces of one model's requests. operation: OpenTelemetry's word for what they ask."""

    tracer: Tracer
    operation: str
    model_id: str
    clock: Callable[[], float] = time.monotonic

    def begin(self, request_id: str, traceparent: str | None) -> RequestTrace:
        """A request has arrived. traceparent: of W3C's Trace Context, as the caller sent it, if one did."""
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        parent = TraceContextTextMapPropagator().extract(carrier)
        now_s = self.clock()
        return RequestTrace(self.tracer, self.operation, self.model_id, request_id, parent, now_s, self.clock)
