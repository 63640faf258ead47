"""Writes the story of a request as spans once it has ended; knows no Triton and asks the engine nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from meshkit import telemetry
from services.chat_worker.engine.generation import Finish, Piece

_CHAT: Final = "chat"


class _Part(NamedTuple):
    name: str
    start_s: float
    end_s: float
    answer_index: int
    num_tokens: int | None = None

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        answer: dict[str, AttributeValue] = {telemetry.ANSWER_INDEX: self.answer_index}
        return answer if self.num_tokens is None else answer | {telemetry.NUM_TOKENS: self.num_tokens}


@dataclass(slots=True)
class RequestTrace:
    """What is remembered of one request until it ends. Times are of the engine's clock, in seconds."""

    tracer: Tracer
    model_id: str
    request_id: str
    parent: Context
    begun_s: float
    clock: Callable[[], float]
    finishes: dict[int, Finish] = field(default_factory=dict[int, Finish])

    def note(self, piece: Piece) -> None:
        """Take what was sent; the request's last piece ends the trace."""
        if piece.finish is not None:
            self.finishes[piece.index] = piece.finish
        if piece.last:
            self.end()

    def end(self, error_type: str | None = None) -> None:
        """Write the spans: the request, and below it what is known of its answers."""
        now_ns, now_s = time.time_ns(), self.clock()

        def wall(at_s: float) -> int:
            return now_ns - round((now_s - at_s) * 1e9)

        span = self.tracer.start_span(
            f"{_CHAT} {self.model_id}", self.parent, SpanKind.SERVER, self._attributes(), start_time=wall(self.begun_s)
        )
        if error_type is not None:
            span.set_attribute(telemetry.ERROR_TYPE, error_type)
            span.set_status(Status(StatusCode.ERROR))
        context = set_span_in_context(span)
        for index, finish in self.finishes.items():
            for part in _parts(index, finish):
                start_ns = wall(part.start_s)
                child = self.tracer.start_span(part.name, context, attributes=part.attributes, start_time=start_ns)
                child.end(wall(part.end_s))
        span.end(now_ns)

    def _attributes(self) -> Mapping[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {
            telemetry.OPERATION: _CHAT,
            telemetry.PROVIDER: telemetry.PROVIDER_NAME,
            telemetry.REQUEST_MODEL: self.model_id,
            telemetry.REQUEST_ID: self.request_id,
        }
        if self.finishes:
            finishes = [self.finishes[index] for index in sorted(self.finishes)]
            attributes[telemetry.INPUT_TOKENS] = finishes[0].prompt_tokens
            attributes[telemetry.CACHED_TOKENS] = finishes[0].cached_tokens
            attributes[telemetry.OUTPUT_TOKENS] = sum(finish.completion_tokens for finish in finishes)
            attributes[telemetry.FINISH_REASONS] = [finish.reason.value for finish in finishes]
        return attributes


@dataclass(frozen=True, slots=True)
class RequestTracer:
    """Begins the traces of one model's requests."""

    tracer: Tracer
    model_id: str
    clock: Callable[[], float] = time.monotonic

    def begin(self, request_id: str, traceparent: str | None) -> RequestTrace:
        """A request has arrived. traceparent: of W3C's Trace Context, as the caller sent it, if one did."""
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        parent = TraceContextTextMapPropagator().extract(carrier)
        return RequestTrace(self.tracer, self.model_id, request_id, parent, self.clock(), self.clock)


def _parts(index: int, finish: Finish) -> list[_Part]:
    """The spans of an answer; one that shares the prompt of answer 0 only decodes."""
    started_s = finish.arrived_s + finish.queue_s
    first_s = started_s + finish.prefill_s
    parts = [_Part(telemetry.DECODE, first_s, first_s + finish.decode_s, index, finish.completion_tokens)]
    if index == 0:
        parts.append(_Part(telemetry.QUEUE, finish.arrived_s, started_s, index))
        parts += [_Part(telemetry.PREFILL, c.start_s, c.end_s, index, c.num_tokens) for c in finish.prompt_chunks]
    return parts
