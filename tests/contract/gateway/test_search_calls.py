"""Search requests on their way: deadlines, clients who leave, draining, and the log."""

import asyncio
import logging

import grpc
import pytest

from meshkit.errors import MeshError, Reason
from meshkit.wire import encode_error
from tests.contract.gateway.conftest import Mesh, metrics_hold, running_mesh
from tests.contract.gateway.test_grpc import error_info
from tests.fakes.triton import ErrorText, Hold, Step, scores, vectors
from zhinao.embedding.v1.embedding_pb2 import EmbedInput, EmbedRequest
from zhinao.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from zhinao.rerank.v1.rerank_pb2 import RerankRequest
from zhinao.rerank.v1.rerank_pb2_grpc import RerankServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROUTES = [
    pytest.param("/v1/embeddings", {"input": "yellow"}, vectors([1.0]), id="embed"),
    pytest.param("/v1/rerank", {"query": "yellow", "documents": ["yellow"]}, scores(0.5), id="rerank"),
    pytest.param("/v1/score", {"text_1": ["yellow", "red"], "text_2": ["a", "b"]}, scores(0.5), id="score"),
]


@pytest.mark.parametrize(("path", "body", "answer"), ROUTES)
async def test_a_client_that_leaves_cancels_upstream(path: str, body: dict[str, object], answer: Step) -> None:
    async with running_mesh() as mesh:
        mesh.triton.script = [Hold(), answer]

        asking = asyncio.create_task(mesh.http.post(path, json=body))
        await mesh.triton.holding.wait()
        asking.cancel()

        await asyncio.wait_for(mesh.triton.cancelled.wait(), 5)
        await metrics_hold(mesh, f'mesh_requests_total{{code="499",route="{path}"}} 1.0')
        await metrics_hold(mesh, "mesh_requests_running 0.0")


@pytest.mark.parametrize(("path", "body", "answer"), ROUTES)
async def test_draining_refuses_new_requests_and_lets_running_ones_end(
    path: str, body: dict[str, object], answer: Step
) -> None:
    async with running_mesh() as mesh:
        hold = Hold()
        mesh.triton.script = [hold, answer]
        running = asyncio.create_task(mesh.http.post(path, json=body))
        await mesh.triton.holding.wait()

        draining = asyncio.create_task(mesh.admission.drain(timeout_s=30))
        await asyncio.sleep(0)  # let it begin
        refused = await mesh.http.post(path, json=body)
        hold.release.set()
        await draining

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert (await running).status_code == 200


@pytest.mark.parametrize(("path", "body", "answer"), ROUTES)
async def test_nothing_of_a_request_is_logged_but_its_cost(
    mesh: Mesh, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, object], answer: Step
) -> None:
    caplog.set_level(logging.DEBUG, logger="services")
    mesh.triton.script = [answer]

    await mesh.http.post(path, json=body)

    (record,) = [record for record in caplog.records if record.name == "services.gateway.requests"]
    fields = record.__dict__["fields"]
    assert (fields["route"], fields["status"]) == (path, "200")
    assert fields["model"] == ("zhinao-embed" if "embed" in path else "zhinao-rerank")
    assert fields["prompt_tokens"] == {"/v1/embeddings": 7, "/v1/rerank": 11, "/v1/score": 22}[path]
    assert "yellow" not in caplog.text + str([record.__dict__ for record in caplog.records])


async def test_the_trace_reaches_the_worker(mesh: Mesh) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    mesh.triton.script = [vectors([1.0])]

    await mesh.http.post("/v1/embeddings", json={"input": "a"}, headers={"traceparent": traceparent})

    assert mesh.triton.received[0].metadata["traceparent"] == traceparent


async def test_typed_embed_answers_what_the_worker_says(mesh: Mesh) -> None:
    mesh.triton.script = [vectors([1.0, 0.5], truncated=[3])]
    request = EmbedRequest(request_id="mine", inputs=[EmbedInput(text="a")], dimensions=2, space="space-1")

    answer = await EmbeddingServiceStub(mesh.channel).Embed(request)

    assert [answer] == mesh.triton.script
    request.model = "zhinao-embed"
    assert mesh.triton.embed_request == request


async def test_typed_rerank_answers_what_the_worker_says_in_the_requests_order(mesh: Mesh) -> None:
    mesh.triton.script = [scores(0.25, 0.75, threshold=0.5)]
    request = RerankRequest(model="zhinao-rerank", request_id="mine", query="q", documents=["a", "b"])

    answer = await RerankServiceStub(mesh.channel).Rerank(request)

    assert [answer] == mesh.triton.script
    assert mesh.triton.rerank_request == request


async def test_typed_calls_fail_with_the_tables_code_and_an_error_info(mesh: Mesh) -> None:
    mesh.triton.script = [ErrorText(encode_error(MeshError(Reason.SPACE_MISMATCH, "a is not b", param="space")))]

    with pytest.raises(grpc.aio.AioRpcError) as pinned:
        await EmbeddingServiceStub(mesh.channel).Embed(EmbedRequest(inputs=[EmbedInput(text="a")]))
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await RerankServiceStub(mesh.channel).Rerank(RerankRequest(model="gpt-9"))

    assert (pinned.value.code(), pinned.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "a is not b")
    assert error_info(pinned.value).reason == "SPACE_MISMATCH"
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    assert error_info(unknown.value).reason == "MODEL_NOT_FOUND"


async def test_a_typed_callers_deadline_ends_the_call_upstream(mesh: Mesh) -> None:
    mesh.triton.script = [Hold()]

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await RerankServiceStub(mesh.channel).Rerank(RerankRequest(query="q", documents=["a"]), timeout=0.3)

    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(mesh.triton.cancelled.wait(), 5)
