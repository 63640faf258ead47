"""Decides what a trace tells of a request at the gateway: what it asked, what it cost, how it ended; never its text."""

from collections.abc import Mapping
from typing import Final

from grpc import StatusCode
from opentelemetry.trace import NoOpTracer, SpanKind, Status, Tracer, set_span_in_context
from opentelemetry.trace import StatusCode as SpanStatus
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from meshkit import telemetry
from services.gateway.call import PROBES, Call

_CONTEXT: Final = TraceContextTextMapPropagator()
_FAULTS: Final = (  # OpenTelemetry's list of the codes that are a server's failure
    StatusCode.UNKNOWN,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.UNIMPLEMENTED,
    StatusCode.INTERNAL,
    StatusCode.UNAVAILABLE,
    StatusCode.DATA_LOSS,
)


def begin_span(tracer: Tracer, call: Call, path: str = "") -> None:
    """Go on with the client's trace, or begin one; what is asked of workers for this call becomes part of it."""
    if isinstance(tracer, NoOpTracer) or path in PROBES:
        return
    carrier = {} if call.traceparent is None else {"traceparent": call.traceparent}
    call.span = tracer.start_span("request", _CONTEXT.extract(carrier), SpanKind.SERVER)
    _CONTEXT.inject(carrier, set_span_in_context(call.span))
    call.traceparent = carrier["traceparent"]


def end_http_span(call: Call, *, method: str, route: str, status: int) -> None:
    """The answer is complete, or nobody waits for it. route: a path template."""
    attributes = {telemetry.HTTP_METHOD: method, telemetry.HTTP_ROUTE: route, telemetry.HTTP_STATUS: status}
    _end(call, f"{method} {route}", attributes, str(status) if status >= 500 else None)


def end_rpc_span(call: Call, *, route: str, code: StatusCode) -> None:
    """The same of gRPC. route: /package.Service/Method."""
    method = route.removeprefix("/")
    attributes = {telemetry.RPC_SYSTEM: "grpc", telemetry.RPC_METHOD: method, telemetry.RPC_STATUS: code.name}
    _end(call, method, attributes, code.name if code in _FAULTS else None)


def _end(call: Call, name: str, attributes: Mapping[str, AttributeValue], error_type: str | None) -> None:
    if not call.span.is_recording():
        return
    known: dict[str, AttributeValue | None] = {
        telemetry.REQUEST_ID: call.request_id,
        telemetry.PROVIDER: telemetry.PROVIDER_NAME,
        telemetry.OPERATION: call.operation,
        telemetry.REQUEST_MODEL: call.model,
        telemetry.INPUT_TOKENS: call.prompt_tokens,
        telemetry.OUTPUT_TOKENS: call.completion_tokens,
        telemetry.CACHED_TOKENS: call.cached_tokens,
        telemetry.REASONING_TOKENS: call.reasoning_tokens,
        telemetry.FINISH_REASONS: call.finish_reasons or None,
        telemetry.TIME_TO_FIRST_CHUNK: None if call.first_token_s is None else call.first_token_s - call.begun_s,
        **call.parameters,
        telemetry.ERROR_TYPE: error_type,
    }
    call.span.update_name(name)
    call.span.set_attributes(attributes)
    call.span.set_attributes({key: value for key, value in known.items() if value is not None})
    if error_type is not None:
        call.span.set_status(Status(SpanStatus.ERROR))
    call.span.end()
