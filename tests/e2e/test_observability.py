"""What an operator sees of a real mesh: traces, metrics, and that a client who reads nothing holds up no other."""

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from services.chat_worker.engine.sequence import FinishReason
from tests.e2e.conftest import CHAT_ONLY, Mesh, free_port, wait_until, zhinao
from tests.fakes.otlp_sink import OtlpSink
from tests.fixtures.tiny_zhinao import write_tiny_zhinao

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
    """One tiny model whose greedy answers never end by themselves, in a mesh that sends spans to the sink."""
    folder = tmp_path_factory.mktemp("traced")
    checkpoint = write_tiny_zhinao(folder, window=8192, endless=True)
    port, state = free_port(), folder / "state"
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
            environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
            words = ("--port", str(port), "--state", str(state), "--model", f"tiny=chat:{checkpoint}", *CHAT_ONLY)
            zhinao("up", "--detach", *words)
        yield Mesh(f"http://127.0.0.1:{port}", state, {"tiny": checkpoint})
    finally:
        zhinao("down", "--state", str(state))


def test_the_workers_spans_join_the_trace_of_the_http_client(traced_mesh: Mesh, sink: OtlpSink) -> None:
    reply = traced_mesh.post(COMPLETIONS, json.dumps(BODY), traceparent=f"00-{TRACE_ID}-{SPAN_ID}-01")
    assert reply.status_code == 200
    spans = sink.of_trace(TRACE_ID, {"chat tiny", "queue", "prefill", "decode"})
    assert spans["chat tiny"].parent_span_id.hex() == SPAN_ID
    attributes = {each.key: each.value for each in spans["chat tiny"].attributes}
    assert attributes["gen_ai.usage.output_tokens"].int_value == reply.json()["usage"]["completion_tokens"]
    assert attributes["mesh.request_id"].string_value == reply.headers["x-request-id"]


def test_tritons_page_shows_the_histograms_of_answers(traced_mesh: Mesh) -> None:
    before = metrics_of(traced_mesh)
    assert traced_mesh.post(COMPLETIONS, json.dumps(BODY)).status_code == 200
    after = metrics_of(traced_mesh)

    def gained(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert gained("vllm:time_to_first_token_seconds_count") == 1
    assert gained("vllm:inter_token_latency_seconds_count") == 7
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
