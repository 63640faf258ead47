"""What a trace tells of requests at the gateway."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from meshkit.errors import MeshError, Reason
from meshkit.wire import encode_error
from tests.contract.gateway.conftest import Mesh, running_mesh
from tests.fakes.triton import HELLO, ErrorText, last, piece, scores
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_LENGTH, GenerateRequest
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
SECRET = "what nobody else may read"
CHAT = {"messages": [{"role": "user", "content": SECRET}]}


@dataclass(frozen=True, slots=True)
class Traced:
    """A gateway, and where its spans end."""

    mesh: Mesh
    exporter: InMemorySpanExporter

    def span(self) -> tuple[ReadableSpan, Mapping[str, object]]:
        """The only one, and its attributes."""
        (span,) = self.exporter.get_finished_spans()
        return span, span.attributes or {}

    def traceparent(self) -> str:
        """What the worker was told last."""
        return self.mesh.triton.received[-1].metadata["traceparent"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_traced() -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with running_mesh(tracer=provider.get_tracer("test")) as mesh:
        yield Traced(mesh, exporter)
    provider.shutdown()


@pytest.fixture
def traced(shared_traced: Traced) -> Traced:
    shared_traced.mesh.triton.reset()
    shared_traced.exporter.clear()
    return shared_traced


def traceparent_of(span: ReadableSpan) -> str:
    assert span.context is not None
    ids = format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)
    return f"00-{'-'.join(ids)}-{span.context.trace_flags:02x}"


async def test_a_chat_is_one_span_between_its_client_and_its_worker(traced: Traced) -> None:
    headers = SAMPLED | {"x-request-id": "mine"}
    assert (await traced.mesh.http.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200

    span, attributes = traced.span()
    assert (span.name, span.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert span.parent is not None
    assert format_span_id(span.parent.span_id) == SPAN_ID
    assert traced.traceparent() == traceparent_of(span)
    assert TRACE_ID in traced.traceparent()
    seed, wait_s = attributes["gen_ai.request.seed"], attributes["gen_ai.response.time_to_first_chunk"]
    assert isinstance(seed, int) and isinstance(wait_s, float) and 0 < wait_s < 30
    assert attributes == {
        "gen_ai.request.seed": seed,
        "gen_ai.response.time_to_first_chunk": wait_s,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "mesh.request_id": "mine",
        "gen_ai.provider.name": "zhinao_mesh",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "zhinao-chat",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_a_span_holds_how_a_chat_was_asked_and_none_of_its_words(traced: Traced) -> None:
    body = CHAT | {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": -1, "max_tokens": 9, "n": 2, "stop": [SECRET]}
    cut_off = last(reason=FINISH_REASON_LENGTH)
    cut_off.index = 1
    traced.mesh.triton.script = [last(), cut_off]
    assert (await traced.mesh.http.post("/v1/chat/completions", json=body)).status_code == 200

    _, attributes = traced.span()
    names = ("temperature", "top_p", "top_k", "seed", "max_tokens", "choice.count")
    assert [attributes[f"gen_ai.request.{name}"] for name in names] == [0.7, 0.9, 5, -1, 9, 2]
    assert attributes["gen_ai.response.finish_reasons"] == ("stop", "length")
    assert SECRET not in str(attributes)


async def test_the_span_of_a_stream_ends_with_its_last_event(traced: Traced) -> None:
    async with traced.mesh.http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as reply:
        await reply.aread()

    assert traced.span()[1]["gen_ai.usage.output_tokens"] == 3


async def test_a_call_over_grpc_is_a_span_of_its_method(traced: Traced) -> None:
    call = ChatServiceStub(traced.mesh.channel).Generate(GenerateRequest(), metadata=tuple(SAMPLED.items()))

    assert len([piece async for piece in call]) == len(HELLO)
    assert await call.code() is grpc.StatusCode.OK

    span, attributes = traced.span()
    assert span.name == attributes["rpc.method"] == "zhinao.chat.v1.ChatService/Generate"
    assert (attributes["rpc.system.name"], attributes["rpc.response.status_code"]) == ("grpc", "OK")
    assert traced.traceparent() == traceparent_of(span)


async def test_all_questions_of_one_request_are_below_its_span(traced: Traced) -> None:
    traced.mesh.triton.script = (scores(0.5),)

    reply = await traced.mesh.http.post("/v1/score", json={"text_1": ["a", "b"], "text_2": ["c", "d"]})

    assert reply.status_code == 200
    span, attributes = traced.span()
    assert [call.metadata["traceparent"] for call in traced.mesh.triton.received] == [traceparent_of(span)] * 2
    assert (attributes["gen_ai.operation.name"], attributes["gen_ai.usage.input_tokens"]) == ("rerank", 22)


@pytest.mark.parametrize(
    ("reason", "status", "error_type"), [(Reason.INVALID_REQUEST, 400, None), (Reason.NOT_READY, 503, "503")]
)
async def test_a_span_is_an_error_where_the_mesh_failed_and_not_where_its_client_did(
    traced: Traced, reason: Reason, status: int, error_type: str | None
) -> None:
    traced.mesh.triton.script = (ErrorText(encode_error(MeshError(reason, "no"))),)

    assert (await traced.mesh.http.post("/v1/chat/completions", json=CHAT)).status_code == status

    span, attributes = traced.span()
    assert attributes.get("error.type") == error_type
    assert (span.status.status_code is StatusCode.ERROR) == (error_type is not None)


async def test_no_text_of_a_request_or_an_answer_is_in_a_span(traced: Traced) -> None:
    traced.mesh.triton.script = (piece("unheard of"), last())

    assert (await traced.mesh.http.post("/v1/chat/completions", json=CHAT)).status_code == 200

    told = json.dumps([json.loads(span.to_json()) for span in traced.exporter.get_finished_spans()])
    assert SECRET not in told
    assert "unheard" not in told


async def test_a_client_that_wants_no_trace_gets_none_and_its_worker_is_told_so(traced: Traced) -> None:
    unsampled = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-00"}
    assert (await traced.mesh.http.post("/v1/chat/completions", json=CHAT, headers=unsampled)).status_code == 200

    assert traced.exporter.get_finished_spans() == ()
    assert traced.traceparent().endswith("-00")


async def test_probes_are_not_traced(traced: Traced) -> None:
    for path in ("/health", "/ready", "/serving", "/metrics"):
        assert (await traced.mesh.http.get(path)).status_code == 200

    assert traced.exporter.get_finished_spans() == ()
