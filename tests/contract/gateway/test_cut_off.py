"""What is cut off when a gateway can wait no longer: clients read that it was, in every form of an answer."""

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from tests.contract.gateway.conftest import Mesh, metrics_hold, running_mesh
from tests.fakes.triton import Hold, piece
from zhinao.chat.v1.chat_pb2 import GenerateRequest
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="function")

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[Mesh]:
    """A mesh whose worker says a piece and no more."""
    async with running_mesh() as mesh:
        mesh.triton.script = [piece("a"), Hold()]
        yield mesh


async def cut_off(mesh: Mesh) -> None:
    """What a shutdown does when its time is over."""
    await mesh.triton.holding.wait()
    await mesh.admission.drain(0)
    mesh.admission.cut_off()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_ends_with_an_event_that_says_so(mesh: Mesh, path: str) -> None:
    body = {"stream": True, **(CHAT if "chat" in path else {"prompt": ["a", "b"]})}

    async with mesh.http.stream("POST", path, json=body) as answer:
        await cut_off(mesh)
        events = [line async for line in answer.aiter_lines() if line]

    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "not_ready"
    await metrics_hold(mesh, "mesh_requests_running 0.0")
    metrics = (await mesh.http.get("/metrics")).text
    assert 'mesh_wasted_tokens_total{reason="NOT_READY"}' in metrics
    assert 'reason="CLIENT_CANCELLED"' not in metrics


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/rerank", {"query": "q", "documents": ["a"]})]
)
async def test_a_whole_answer_is_refused(mesh: Mesh, path: str, body: dict[str, object]) -> None:
    mesh.triton.script = [Hold()]
    asking = asyncio.create_task(mesh.http.post(path, json=body))

    await cut_off(mesh)

    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")


async def test_an_rpc_ends_with_the_status(mesh: Mesh) -> None:
    call = ChatServiceStub(mesh.channel).Generate(GenerateRequest(text="hi"))
    await call.read()

    await cut_off(mesh)

    assert await call.code() is grpc.StatusCode.UNAVAILABLE
