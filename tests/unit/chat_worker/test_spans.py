"""The spans of a request, as an exporter gets them."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from services.chat_worker.engine.generation import Finish, Piece, PromptChunk
from services.chat_worker.engine.sequence import FinishReason
from services.chat_worker.spans import ChatTracer

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = (f"00-{TRACE_ID}-{SPAN_ID}-{flags}" for flags in ("01", "00"))
CHUNKS = (PromptChunk(12.0, 13.0, 64), PromptChunk(13.0, 15.0, 24))
FINISH = Finish(
    *(FinishReason.STOP, 600, 7),
    queue_s=1,
    prefill_s=3,
    decode_s=4,
    cached_tokens=512,
    arrived_s=11,
    prompt_chunks=CHUNKS,
)


class Harness:
    """A tracer whose spans stay here. The request arrives at 10 s and ends at 20 s of the engine's clock."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.now_s = 10.0
        self.tracer = ChatTracer(self.provider.get_tracer("test"), "tiny", clock=lambda: self.now_s)

    def spans(self) -> dict[str, list[ReadableSpan]]:
        found: dict[str, list[ReadableSpan]] = {}
        for span in self._exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    harness.provider.shutdown()


def seconds(span: ReadableSpan, end: ReadableSpan) -> tuple[float, float]:
    """Start and end of a span, counted from the end of another, in seconds."""
    assert span.start_time is not None and span.end_time is not None and end.end_time is not None
    return round((span.start_time - end.end_time) / 1e9, 3), round((span.end_time - end.end_time) / 1e9, 3)


def test_a_request_becomes_a_span_under_its_callers_with_queue_prompt_and_decode_below(harness: Harness) -> None:
    trace = harness.tracer.begin("rq-1", SAMPLED)
    trace.note(Piece("a", (), first=True))
    harness.now_s = 20.0
    trace.note(Piece("b", (), finish=FINISH, last=True))
    spans = harness.spans()
    (root,) = spans["chat tiny"]
    assert root.parent is not None
    assert (f"{root.parent.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert (root.kind, root.status.status_code) == (SpanKind.SERVER, StatusCode.UNSET)
    assert dict(root.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "zhinao_mesh",
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": 600,
        "gen_ai.usage.cache_read.input_tokens": 512,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.response.finish_reasons": ("stop",),
        "mesh.request_id": "rq-1",
    }
    assert seconds(root, root) == (-10, 0)
    assert [seconds(span, root) for span in spans["queue"]] == [(-9, -8)]
    assert [seconds(span, root) for span in spans["prefill"]] == [(-8, -7), (-7, -5)]
    assert [span.attributes["mesh.num_tokens"] for span in spans["prefill"] if span.attributes] == [64, 24]
    assert [seconds(span, root) for span in spans["decode"]] == [(-5, -1)]
    below = [span for name in ("queue", "prefill", "decode") for span in spans[name]]
    assert {span.parent.span_id for span in below if span.parent} == {root.context.span_id}


def test_answers_that_share_a_prompt_are_one_request_with_one_prompt(harness: Harness) -> None:
    trace = harness.tracer.begin("rq-1", None)
    trace.note(Piece("a", (), 1, FINISH))
    assert not harness.spans()
    trace.note(Piece("b", (), 0, FINISH, last=True))
    spans = harness.spans()
    (root,) = spans["chat tiny"]
    assert root.parent is None
    assert root.attributes is not None and root.attributes["gen_ai.usage.output_tokens"] == 14
    assert {name: len(found) for name, found in spans.items()} == {
        "chat tiny": 1,
        "queue": 1,
        "prefill": 2,
        "decode": 2,
    }


def test_a_request_that_failed_says_why(harness: Harness) -> None:
    harness.tracer.begin("rq-1", SAMPLED).end("DEADLINE")
    (root,) = harness.spans()["chat tiny"]
    assert root.status.status_code is StatusCode.ERROR
    assert root.attributes is not None and root.attributes["error.type"] == "DEADLINE"


def test_a_caller_who_samples_nothing_gets_no_spans(harness: Harness) -> None:
    harness.tracer.begin("rq-1", UNSAMPLED).note(Piece("", (), finish=FINISH, last=True))
    assert not harness.spans()


@pytest.mark.parametrize("nonsense", ["", "00-0-0-01", "好"])
def test_a_parent_that_is_none_is_ignored(harness: Harness, nonsense: str) -> None:
    harness.tracer.begin("rq-1", nonsense).note(Piece("", (), finish=FINISH, last=True))
    assert harness.spans()["chat tiny"][0].parent is None
