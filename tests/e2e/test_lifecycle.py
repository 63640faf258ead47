"""What operators do to a mesh and what happens to it: gateways restarted under load, workers that are stuck or dead."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import grpc
import httpx
import psutil
import pytest

from mesh.worker_probe import ask as ask_worker
from tests.e2e.conftest import CHAT_ONLY, Mesh, free_port, wait_until, zhinao
from tests.fixtures.tiny_zhinao import write_tiny_zhinao
from zhinao.chat.v1.chat_pb2 import GenerateRequest, StopConditions
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub
from zhinao.tokenize.v1.tokenize_pb2 import TokenizeRequest
from zhinao.tokenize.v1.tokenize_pb2_grpc import TokenizeServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

PATH = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 64}
HEADERS = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def two_gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("rolling")
    checkpoint = write_tiny_zhinao(folder, window=8192, endless=True)
    port, state = free_port(), folder / "state"
    words = ("--port", str(port), "--state", str(state), "--model", f"tiny=chat:{checkpoint}", *CHAT_ONLY)
    try:
        zhinao("up", "--detach", "--gateway", "2", *words)
        yield Mesh(f"http://127.0.0.1:{port}", state, {"tiny": checkpoint})
    finally:
        zhinao("down", "--state", str(state))


def ask(mesh: Mesh, stop: threading.Event, index: int) -> list[str]:
    """Ask over REST until told to stop, and say how each ended; streams and whole answers, over kept and new
    connections.
    """
    ends: list[str] = []
    body = json.dumps(BODY | {"stream": index % 2 == 0, "max_tokens": 8 + 56 * (index % 3)})
    with httpx.Client(base_url=mesh.url, timeout=60) as kept:
        while not stop.is_set():
            client = kept if index % 4 < 2 else httpx
            url = PATH if client is kept else mesh.url + PATH
            try:
                answer = client.post(url, content=body, headers=HEADERS)
            except httpx.HTTPError as error:
                ends.append(repr(error))
                continue
            is_whole = answer.status_code == 200 and (index % 2 or "data: [DONE]" in answer.text)
            ends.append("whole" if is_whole else f"{answer.status_code}: {answer.text[-300:]}")
    return ends


def ask_over_grpc(mesh: Mesh, stop: threading.Event, index: int) -> list[str]:
    """The same over gRPC: streams of an answer's tokens, and calls that have one answer."""
    ends: list[str] = []
    num_tokens, address = 8 + 56 * (index % 3), mesh.url.removeprefix("http://")
    request = GenerateRequest(text="hi", stop=StopConditions(max_tokens=num_tokens))
    with grpc.insecure_channel(address) as kept:
        while not stop.is_set():
            with nullcontext(kept) if index % 4 < 2 else grpc.insecure_channel(address) as channel:
                try:
                    if index % 2:
                        is_whole = TokenizeServiceStub(channel).Tokenize(TokenizeRequest(text="hi"), timeout=60).ids
                    else:
                        pieces = ChatServiceStub(channel).Generate(request, timeout=60)
                        is_whole = sum(len(piece.token_ids) for piece in pieces) == num_tokens
                    ends.append("whole" if is_whole else "cut off")
                except grpc.RpcError as error:
                    ends.append(str(error))
    return ends


@pytest.mark.parametrize("asker", [ask, ask_over_grpc], ids=["REST", "gRPC"])
def test_gateways_restarted_one_after_the_other_under_load_fail_no_request(
    two_gateways: Mesh, asker: Callable[[Mesh, threading.Event, int], list[str]]
) -> None:
    mesh, stop = two_gateways, threading.Event()

    def pids() -> dict[str, int]:
        return {part["name"]: part["pid"] for part in mesh.parts() if part["kind"] == "gateway"}

    before = pids()
    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(asker, mesh, stop, index) for index in range(8)]
        try:
            zhinao("restart", "--state", str(mesh.state))
        finally:
            stop.set()
        ends = [end for each in asking for end in each.result()]
    after = pids()

    assert [end for end in ends if end != "whole"] == []
    assert len(ends) > 100
    assert before.keys() == after.keys() == {"gateway-0", "gateway-1"}
    assert all(before[name] != after[name] for name in before)


def stub_of(mesh: Mesh) -> psutil.Process:
    """The process in which the worker's model runs."""
    worker = next(part["pid"] for part in mesh.parts() if part["model"] == "tiny")
    (stub,) = [each for each in psutil.Process(worker).children(recursive=True) if "python_backend_stub" in each.name()]
    return stub


def is_ready(mesh: Mesh) -> bool:
    return httpx.get(f"{mesh.url}/ready", timeout=30).status_code == 200


def seconds_until_not_ready(url: str) -> float:
    """From now on, to one who asks four times a second."""
    began_s = time.monotonic()
    while httpx.get(f"{url}/ready", timeout=30).status_code == 200:
        time.sleep(0.25)
    return time.monotonic() - began_s


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stuck", "dead"])
def test_a_stuck_or_dead_model_fails_readiness_within_two_seconds_and_comes_back(
    two_gateways: Mesh, number: signal.Signals
) -> None:
    mesh = two_gateways
    assert wait_until(lambda: is_ready(mesh), 60)
    stub = stub_of(mesh)

    stub.send_signal(number)
    seconds = seconds_until_not_ready(mesh.url)
    worker = next(part for part in mesh.parts() if part["model"] == "tiny")
    asked_by_kubelet = ask_worker("chat", int(worker["http"].rpartition(":")[2]), patience_s=1.0)
    if number is signal.SIGSTOP:
        stub.send_signal(signal.SIGCONT)

    assert seconds < 2
    assert asked_by_kubelet is not None
    assert worker["state"] != "ready"  # a Triton that aborts over its dead stub is starting already
    assert wait_until(lambda: is_ready(mesh), 90)


def test_a_gateway_that_leaves_fails_readiness_within_two_seconds(two_gateways: Mesh) -> None:
    mesh = two_gateways
    assert wait_until(lambda: is_ready(mesh), 90)
    leaving = next(part for part in mesh.parts() if part["name"] == "gateway-1")

    psutil.Process(leaving["pid"]).terminate()
    seconds = seconds_until_not_ready(leaving["http"])

    assert seconds < 2
    assert wait_until(lambda: is_ready(mesh), 2)  # by the other one, once Envoy has seen it too
