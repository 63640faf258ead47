"""What an operator sees of a real mesh: traces, metrics, and that a client who reads nothing holds up no other."""

import json
import re
import socket
import uuid
from collections.abc import Callable, Iterator

import grpc
import httpx
import pytest

from services.chat_worker.engine.sequence import FinishReason
from tests.e2e.conftest import Mesh, free_port, wait_until, zhinao
from tests.fakes.otlp_sink import OtlpSink
from tests.fixtures.servers import running_collector
from tests.fixtures.tiny_zhinao import write_tiny_zhinao
from zhinao.chat.v1.chat_pb2 import GenerateRequest, StopConditions, TokenPrompt
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 8}
COMPLETIONS = "/v1/chat/completions"


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with OtlpSink().serve() as sink:
        yield sink


@pytest.fixture(scope="module")
def traced_mesh(sink: OtlpSink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A tiny model whose greedy answers never end by themselves, as a reranker too, and the demo encoder.

    Spans go through a real collector to the sink.
    """
    folder = tmp_path_factory.mktemp("traced")
    checkpoint = write_tiny_zhinao(folder, window=8192, endless=True)
    port, state = free_port(), folder / "state"
    with running_collector(sink.url) as collector:
        try:
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
                environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
                models = ("--model", f"tiny=chat:{checkpoint}", "--model", f"tiny-rank=rerank:{checkpoint}")
                zhinao("up", "--detach", "--port", str(port), "--state", str(state), *models)
            yield Mesh(f"http://127.0.0.1:{port}", state, {"tiny": checkpoint})
        finally:
            zhinao("down", "--state", str(state))


def test_the_workers_spans_join_the_trace_of_the_http_client(traced_mesh: Mesh, sink: OtlpSink) -> None:
    reply = traced_mesh.post(COMPLETIONS, json.dumps(BODY), traceparent=f"00-{TRACE_ID}-{SPAN_ID}-01")
    assert reply.status_code == 200
    spans = sink.of_trace(TRACE_ID, {"chat tiny", "queue", "prefill", "decode"})
    attributes = {each.key: each.value for each in spans["chat tiny"].attributes}
    assert attributes["gen_ai.usage.output_tokens"].int_value == reply.json()["usage"]["completion_tokens"]
    assert attributes["mesh.request_id"].string_value == reply.headers["x-request-id"]


def ask_chat(mesh: Mesh, traceparent: str) -> None:
    assert mesh.post(COMPLETIONS, json.dumps(BODY), traceparent=traceparent).status_code == 200


def ask_grpc(mesh: Mesh, traceparent: str) -> None:
    prompt, stop = TokenPrompt(ids=[1, 2, 3]), StopConditions(max_tokens=2)
    with grpc.insecure_channel(mesh.url.removeprefix("http://")) as channel:
        call = ChatServiceStub(channel).Generate(
            GenerateRequest(tokens=prompt, stop=stop), metadata=[("traceparent", traceparent)]
        )
        assert list(call)


def ask_rerank(mesh: Mesh, traceparent: str) -> None:
    body = {"query": "a", "documents": ["b", "c"]}
    assert mesh.post("/v1/rerank", json.dumps(body), traceparent=traceparent).status_code == 200


def ask_embed(mesh: Mesh, traceparent: str) -> None:
    assert mesh.post("/v1/embeddings", json.dumps({"input": "a"}), traceparent=traceparent).status_code == 200


@pytest.mark.parametrize(
    ("ask", "names", "deepest"),
    [
        (ask_chat, {"POST /v1/chat/completions", "chat tiny", "queue", "prefill", "decode"}, "prefill"),
        (ask_grpc, {"zhinao.chat.v1.ChatService/Generate", "chat tiny", "queue", "prefill", "decode"}, "decode"),
        (ask_embed, {"POST /v1/embeddings", "embeddings zhinao-embed", "queue", "forward"}, "forward"),
        (ask_rerank, {"POST /v1/rerank", "rerank tiny-rank", "queue", "forward"}, "forward"),
    ],
)
def test_one_request_is_one_tree_of_spans_from_its_client_to_the_engine(
    traced_mesh: Mesh, sink: OtlpSink, ask: Callable[[Mesh, str], None], names: set[str], deepest: str
) -> None:
    for _ in range(5):  # a trace that is lost only sometimes is lost
        trace_id = uuid.uuid4().hex
        ask(traced_mesh, f"00-{trace_id}-{SPAN_ID}-01")

        tree = sink.tree(trace_id, SPAN_ID, names)

        worker, *above = tree.services_from(deepest)
        assert above == [worker, "envoy", "envoy", "gateway", "envoy"]


def test_tritons_page_shows_the_histograms_of_answers(traced_mesh: Mesh) -> None:
    before = metrics_of(traced_mesh)
    assert traced_mesh.post(COMPLETIONS, json.dumps(BODY)).status_code == 200
    gaps = "vllm:inter_token_latency_seconds_count"
    assert wait_until(lambda: metrics_of(traced_mesh)[gaps] - before.get(gaps, 0) == 7, 5)  # told a moment later
    after = metrics_of(traced_mesh)

    def gained(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert gained("vllm:time_to_first_token_seconds_count") == 1
    assert gained("vllm:request_generation_tokens_sum") == 8
    assert gained(f"vllm:request_success_total {FinishReason.LENGTH}") == 1
    assert after["vllm:e2e_request_latency_seconds_bucket +Inf"] == after["vllm:e2e_request_latency_seconds_count"]


def test_a_client_who_reads_nothing_holds_up_nobody(traced_mesh: Mesh) -> None:
    """Its answer is larger than what the sockets on the way hold."""
    long = BODY | {"max_tokens": 4000, "stream": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(long).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.create_connection(("127.0.0.1", traced_mesh.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(f"{head}\r\n\r\n".encode() + body)
        for _ in range(3):
            assert traced_mesh.post(COMPLETIONS, json.dumps(BODY | {"max_tokens": 64})).status_code == 200
        # the engine finishes the deaf client's answer as well: nothing on the way pushes back on it
        finished = f"vllm:request_success_total {FinishReason.LENGTH}"
        before = metrics_of(traced_mesh)[finished]
        assert wait_until(lambda: metrics_of(traced_mesh)[finished] > before, 90)


def metrics_of(mesh: Mesh) -> dict[str, float]:
    """The worker's vllm:* series, by name and the values of all labels but the model's."""
    url = next(part["metrics"] for part in mesh.parts() if part["model"] == "tiny")
    found: dict[str, float] = {}
    for line in httpx.get(url).text.splitlines():
        if line.startswith("vllm:"):
            name, _, value = line.rpartition(" ")
            labels = [text for label, text in re.findall(r'(\w+)="([^"]*)"', name) if label != "model_name"]
            found[" ".join([name.partition("{")[0], *labels])] = float(value)
    return found
