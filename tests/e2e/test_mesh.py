"""The mesh as its operator meets it: slots, health, typed gRPC, failures at the start, and an end without traces."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from mesh.state import StateFolder
from tests.e2e.conftest import CHAT_ONLY, ZHINAO, Mesh, free_port, wait_until, zhinao
from tests.fixtures.tiny_zhinao import write_tiny_zhinao
from zhinao.chat.v1 import chat_pb2, chat_pb2_grpc

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

WORKERS = {"chat", "embed", "rerank"}
STATUS_KEYS = {
    *("name", "kind", "replica", "pid", "state", "restarts", "http", "grpc", "metrics", "model"),
    *("threads", "serving", "load"),
}
LONG = {"messages": [{"role": "user", "content": "Tell me a very long story."}], "ignore_eos": True}
QUESTIONS = {  # by path
    "/v1/completions": '{"prompt": "hi", "max_tokens": 2}',
    "/v1/embeddings": '{"input": "hi"}',
    "/v1/rerank": '{"query": "hi", "documents": ["ho", "hi"]}',
}


def test_a_client_that_leaves_frees_its_slot(mesh: Mesh) -> None:
    body = LONG | {"stream": True}
    with httpx.stream("POST", f"{mesh.url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
        assert wait_until(lambda: mesh.metric("zhinao-chat", "vllm:num_requests_running") == 1, 5)
        assert mesh.metric("zhinao-chat", "vllm:kv_cache_usage_perc") > 0
    assert wait_until(lambda: mesh.metric("zhinao-chat", "vllm:num_requests_running") == 0, 5)
    assert mesh.metric("zhinao-chat", "vllm:kv_cache_usage_perc") == 0


def test_a_client_that_leaves_before_a_whole_answer_frees_its_slot_too(mesh: Mesh) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{mesh.url}/v1/chat/completions", json=LONG, timeout=1.5)
    assert wait_until(lambda: mesh.metric("zhinao-chat", "vllm:num_requests_running") == 0, 5)


def test_status_names_every_part_and_its_addresses(mesh: Mesh) -> None:
    parts = {part["name"]: part for part in mesh.parts()}
    assert {part["kind"] for part in parts.values()} == {"envoy", "gateway", "chat", "embed", "rerank"}
    assert {part["state"] for part in parts.values()} == {"ready"}
    assert {part["model"] for part in parts.values() if part["model"]} == set(mesh.checkpoints)
    for part in parts.values():
        assert set(part) == STATUS_KEYS
        assert "# TYPE" in httpx.get(part["metrics"]).text
        assert psutil.pid_exists(part["pid"])


def test_health_and_readiness_answer_at_the_edge(mesh: Mesh) -> None:
    assert httpx.get(f"{mesh.url}/health").status_code == 200
    assert httpx.get(f"{mesh.url}/ready").status_code == 200


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [
        ("GET /health HTTP/1.0", "Accept: */*", "200"),
        ("GET /health HTTP/1.1", f"X-Long: {'a' * 70_000}", "431"),
        ("GET /health HTTP/1.1", "Content-Length: two", "400"),
        ("OPTIONS * HTTP/1.1", "Host: mesh", "404"),
    ],
)
def test_what_envoy_answers_itself_has_the_shape_too(mesh: Mesh, request_line: str, header: str, status: str) -> None:
    with socket.create_connection(("127.0.0.1", mesh.port), timeout=10) as client:
        client.sendall(f"{request_line}\r\n{header}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: client.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.split()[1].decode() == status
    if status != "200":
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_typed_grpc_streams_on_the_same_port(mesh: Mesh) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{mesh.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="zhinao.chat.v1.ChatService")
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert "zhinao.chat.v1.ChatService" in ProtoReflectionDescriptorDatabase(channel).get_services()
        request = chat_pb2.GenerateRequest(
            text="1, 2, 3, 4,",
            sampling=chat_pb2.SamplingParams(temperature=0),
            stop=chat_pb2.StopConditions(max_tokens=8),
        )
        pieces = list(chat_pb2_grpc.ChatServiceStub(channel).Generate(request, timeout=60))
        assert "".join(piece.text for piece in pieces).startswith(" 5, 6")
        assert pieces[-1].usage.completion_tokens == 8
        with pytest.raises(grpc.RpcError) as caught:
            list(chat_pb2_grpc.ChatServiceStub(channel).Generate(chat_pb2.GenerateRequest(text=""), timeout=60))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_zhinao_chat_answers_a_script(mesh: Mesh) -> None:
    result = subprocess.run(
        [str(ZHINAO), "chat", "--url", mesh.url, "--model", "tiny-zhinao", "--system", "Answer briefly."],
        input="What is the capital of France?\n/exit\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_a_taken_port_is_named_with_its_holder_and_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = zhinao("up", "--detach", "--port", str(port), "--state", str(tmp_path / "s"), check=False)
    assert result.returncode != 0
    assert str(port) in result.stderr
    assert "--port" in result.stderr


def test_a_cut_off_checkpoint_is_refused_by_file_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = write_tiny_zhinao(tmp_path)
    weights = checkpoint / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    port, state = free_port(), tmp_path / "state"
    began_s = time.monotonic()
    result = zhinao(
        "up",
        "--detach",
        "--port",
        str(port),
        "--state",
        str(state),
        "--chat-model",
        str(checkpoint),
        *CHAT_ONLY,
        check=False,
    )
    assert result.returncode == 1
    assert "model.safetensors" in result.stderr + result.stdout
    assert "cut short" in result.stderr + result.stdout
    assert time.monotonic() - began_s < 60
    assert_no_trace(state, port)


def test_a_second_mesh_of_all_kinds_runs_beside_heals_and_goes_without_a_trace(mesh: Mesh, tmp_path: Path) -> None:
    checkpoint = write_tiny_zhinao(tmp_path)
    port, state = free_port(), tmp_path / "state"
    words = (
        "--port",
        str(port),
        "--state",
        str(state),
        "--chat-model",
        str(checkpoint),
        "--rerank-model",
        str(checkpoint),
    )
    try:
        zhinao("up", "--detach", *words)
        assert "up already" in zhinao("up", "--detach", *words).stdout
        second = Mesh(f"http://127.0.0.1:{port}", state, {"zhinao-chat": checkpoint})
        assert [second.post(path, body).status_code for path, body in QUESTIONS.items()] == [200] * 3
        kill_stubs(second)
        assert wait_until(lambda: not ready_kinds(second) & WORKERS, 20), "a dead stub must not look ready"
        assert wait_until(lambda: ready_kinds(second) >= {"envoy", "gateway", *WORKERS}, 90), "they must heal"
        assert [second.post(path, body).status_code for path, body in QUESTIONS.items()] == [200] * 3
        assert httpx.get(f"{mesh.url}/ready").status_code == 200
        os.kill(next(part["pid"] for part in second.parts() if part["kind"] == "chat"), signal.SIGKILL)
        answers = answers_until_the_first_good_one(second)
        assert {answer.status_code for answer in answers} <= {200, 502, 503}
        told_to_wait = [answer for answer in answers if answer.status_code == 503]
        assert told_to_wait
        assert all("retry-after" in answer.headers for answer in told_to_wait)
    finally:
        zhinao("down", "--state", str(state))
    assert_no_trace(state, port)
    assert json.loads(zhinao("status", "--state", str(mesh.state), "--json").stdout)["parts"]


def answers_until_the_first_good_one(mesh: Mesh) -> list[httpx.Response]:
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(mesh.post("/v1/completions", '{"prompt": "hi", "max_tokens": 2}'))
        return answers[-1].status_code == 200

    assert wait_until(answered, 90)
    return answers


def ready_kinds(mesh: Mesh) -> set[str]:
    return {part["kind"] for part in mesh.parts() if part["state"] == "ready"}


def kill_stubs(mesh: Mesh) -> None:
    """Kill the Python process behind every Triton, which Triton itself does not notice."""
    for part in mesh.parts():
        if part["kind"] in WORKERS:
            children = psutil.Process(part["pid"]).children(recursive=True)
            (stub,) = [child for child in children if "stub" in child.name()]
            os.kill(stub.pid, signal.SIGKILL)


def assert_no_trace(state: Path, port: int) -> None:
    """No process of that mesh, no listener on its port, none of its shared memory."""
    marks = [p.info for p in psutil.process_iter(["pid", "cmdline"]) if str(state) in " ".join(p.info["cmdline"] or [])]
    assert marks == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert list(Path("/dev/shm").glob(f"{StateFolder(state).shm_prefix}*")) == []
