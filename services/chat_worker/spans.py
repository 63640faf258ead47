"""Decides which spans tell the story of a chat request; knows no Triton and asks the engine nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

from meshkit import telemetry
from services.chat_worker.engine.generation import Finish, Piece
from workerkit.traces import Attributes, Part, RequestTrace, RequestTracer


@dataclass(frozen=True, slots=True)
class ChatTrace:
    """What is remembered of one request until it ends. finishes: by the index of the answer."""

    request: RequestTrace
    finishes: dict[int, Finish] = field(default_factory=dict[int, Finish])

    def note(self, piece: Piece) -> None:
        """Take what was sent; the request's last piece ends the trace."""
        if piece.finish is not None:
            self.finishes[piece.index] = piece.finish
        if piece.last:
            self.end()

    def end(self, error_type: str | None = None) -> None:
        """Write the spans: the request, and below it what is known of its answers."""
        parts = [part for index, finish in self.finishes.items() for part in _parts(index, finish)]
        self.request.end(self._attributes(), parts, error_type)

    def _attributes(self) -> Attributes:
        if not self.finishes:
            return {}
        finishes = [self.finishes[index] for index in sorted(self.finishes)]
        return {
            telemetry.INPUT_TOKENS: finishes[0].prompt_tokens,
            telemetry.CACHED_TOKENS: finishes[0].cached_tokens,
            telemetry.OUTPUT_TOKENS: sum(finish.completion_tokens for finish in finishes),
            telemetry.FINISH_REASONS: [finish.reason.value for finish in finishes],
        }


class ChatTracer:
    """Begins the traces of one model's requests."""

    def __init__(self, tracer: Tracer, model_id: str, clock: Callable[[], float] = monotonic) -> None:
        self._requests = RequestTracer(tracer, telemetry.CHAT, model_id, clock)

    def begin(self, request_id: str, traceparent: str | None) -> ChatTrace:
        """A request has arrived; see RequestTracer.begin."""
        return ChatTrace(self._requests.begin(request_id, traceparent))


def _parts(index: int, finish: Finish) -> list[Part]:
    """The spans of an answer; one that shares the prompt of answer 0 only decodes."""
    answer: dict[str, AttributeValue] = {telemetry.ANSWER_INDEX: index}

    def part(name: str, start_s: float, end_s: float, num_tokens: int | None = None) -> Part:
        more = {} if num_tokens is None else {telemetry.NUM_TOKENS: num_tokens}
        return Part(name, start_s, end_s, answer | more)

    started_s = finish.arrived_s + finish.queue_s
    first_s = started_s + finish.prefill_s
    parts = [part(telemetry.DECODE, first_s, first_s + finish.decode_s, finish.completion_tokens)]
    if index == 0:
        parts.append(part(telemetry.QUEUE, finish.arrived_s, started_s))
        parts += [part(telemetry.PREFILL, c.start_s, c.end_s, c.num_tokens) for c in finish.prompt_chunks]
    return parts
