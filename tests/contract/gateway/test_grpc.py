"""The typed gRPC face on the same upstream code."""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from meshkit.errors import TABLE, MeshError, Reason
from meshkit.wire import encode_error
from services.gateway.catalog import ServedModel
from tests.contract.gateway.conftest import Mesh, running_mesh
from tests.fakes.triton import ErrorText, Hold, last, piece
from tests.fakes.triton import Status as EndWithStatus
from zhinao.chat.v1.chat_pb2 import ROLE_USER, ChatPrompt, GenerateRequest, GenerateResponse, Message
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICES = (
    "zhinao.chat.v1.ChatService",
    "zhinao.embedding.v1.EmbeddingService",
    "zhinao.rerank.v1.RerankService",
    "zhinao.tokenize.v1.TokenizeService",
)


def question(model: str = "", request_id: str = "") -> GenerateRequest:
    prompt = ChatPrompt(messages=[Message(role=ROLE_USER, content="hi")])
    return GenerateRequest(model=model, request_id=request_id, chat=prompt)


async def failure(mesh: Mesh, request: GenerateRequest) -> tuple[grpc.aio.AioRpcError, ErrorInfo]:
    """The status that the call ends with, and its details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [piece async for piece in ChatServiceStub(mesh.channel).Generate(request)]
    return caught.value, error_info(caught.value)


def error_info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The details of a status."""
    trailers = dict(error.trailing_metadata())
    status = Status.FromString(cast("bytes", trailers["grpc-status-details-bin"]))
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


async def test_generate_streams_what_the_worker_says(mesh: Mesh) -> None:
    pieces = [each async for each in ChatServiceStub(mesh.channel).Generate(question())]

    assert pieces == [each for each in mesh.triton.script if isinstance(each, GenerateResponse)]
    request = mesh.triton.request
    assert request.model == "zhinao-chat"
    assert request.request_id and request.sampling.HasField("seed")


async def test_generate_keeps_what_the_client_chose(mesh: Mesh) -> None:
    request = question(model="qihoo360/small", request_id="mine")
    request.sampling.seed = 0
    request.timeout_s = 7

    _ = [piece async for piece in ChatServiceStub(mesh.channel).Generate(request)]

    assert mesh.triton.request == request


async def test_generate_passes_on_no_more_time_than_the_call_has(mesh: Mesh) -> None:
    request = question()
    request.timeout_s = 500

    _ = [piece async for piece in ChatServiceStub(mesh.channel).Generate(request, timeout=20)]

    assert 0 < mesh.triton.request.timeout_s < 21  # the header that carries it is rounded up


async def test_a_tenant_is_told_by_the_key_and_not_by_the_client(mesh: Mesh) -> None:
    tenants: list[str] = []
    for key in ("Bearer one", "Bearer two", "Bearer one", None):
        metadata = None if key is None else (("authorization", key),)
        request = question()
        request.tenant = "root"
        _ = [piece async for piece in ChatServiceStub(mesh.channel).Generate(request, metadata=metadata)]
        tenants.append(mesh.triton.received[-1].request.tenant)

    assert tenants[0] == tenants[2] != tenants[1]
    assert tenants[3] == ""
    assert "one" not in tenants[0]


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.INTERNAL, Reason.CLIENT_CANCELLED}))
async def test_a_failure_has_the_tables_code_and_an_error_info(mesh: Mesh, reason: Reason) -> None:
    mesh.triton.script = [piece("a"), ErrorText(encode_error(MeshError(reason, "limit 5, got 6", param="stop")))]

    error, info = await failure(mesh, question())

    assert (error.code(), error.details()) == (TABLE[reason].grpc, "limit 5, got 6")
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "zhinao.mesh", {"param": "stop"})


async def test_a_field_at_fault_is_a_field_violation(mesh: Mesh) -> None:
    mesh.triton.script = [ErrorText(encode_error(MeshError(Reason.INVALID_REQUEST, "limit 5, got 6", param="stop")))]

    error, _ = await failure(mesh, question())

    status = Status.FromString(cast("bytes", dict(error.trailing_metadata())["grpc-status-details-bin"]))
    bad = BadRequest()
    assert status.details[-1].Unpack(bad)
    assert [(each.field, each.description) for each in bad.field_violations] == [("stop", "limit 5, got 6")]


async def test_an_unknown_model_is_not_found(mesh: Mesh) -> None:
    error, info = await failure(mesh, question(model="gpt-9"))

    assert (error.code(), info.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert mesh.triton.received == []


async def test_a_model_of_a_long_name_is_not_found_in_few_words(mesh: Mesh) -> None:
    error, _ = await failure(mesh, question(model="m" * 50_000))  # more than a status can carry

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert len(error.details() or "") < 200


async def test_an_internal_failure_says_only_its_request_id(mesh: Mesh) -> None:
    mesh.triton.script = [ErrorText("Traceback: secret")]

    error, _ = await failure(mesh, question(request_id="find-me"))

    assert error.code() == grpc.StatusCode.INTERNAL
    assert "find-me" in (error.details() or "") and "secret" not in (error.details() or "")


async def test_a_bug_of_ours_is_internal(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> AsyncGenerator[GenerateResponse, None]:
        raise ZeroDivisionError("secret")
        yield GenerateResponse()

    monkeypatch.setattr(mesh.admission, "generate", broken)

    error, info = await failure(mesh, question())

    assert (error.code(), info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "ZeroDivisionError" in caplog.text


async def test_a_client_that_cancels_cancels_upstream(mesh: Mesh) -> None:
    mesh.triton.script = [piece("a"), Hold(), last()]
    call = ChatServiceStub(mesh.channel).Generate(question())
    await anext(aiter(call))
    await mesh.triton.holding.wait()

    call.cancel()

    await asyncio.wait_for(mesh.triton.cancelled.wait(), 5)


async def test_a_clients_deadline_ends_the_call_upstream(mesh: Mesh) -> None:
    mesh.triton.script = [Hold()]

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [piece async for piece in ChatServiceStub(mesh.channel).Generate(question(), timeout=0.3)]

    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(mesh.triton.cancelled.wait(), 5)


async def health_of(mesh: Mesh, *services: str) -> list[int]:
    health = HealthStub(mesh.channel)
    return [(await health.Check(HealthCheckRequest(service=service))).status for service in services]


async def test_health_serves_per_service_until_leaving() -> None:
    async with running_mesh() as mesh:
        before = await health_of(mesh, "", *SERVICES)
        mesh.admission.leave()
        after = await health_of(mesh, "", *SERVICES)

        assert before == [HealthCheckResponse.SERVING] * 5
        assert after == [HealthCheckResponse.NOT_SERVING] * 5
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_of(mesh, "no.such.Service")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_service_whose_models_do_not_answer_is_not_healthy_and_the_gateway_is(mesh: Mesh) -> None:
    mesh.triton.ping_script = [EndWithStatus(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")]

    assert await health_of(mesh, "", *SERVICES) == [HealthCheckResponse.SERVING, *[HealthCheckResponse.NOT_SERVING] * 4]


async def test_a_service_of_which_no_model_is_served_is_not_healthy() -> None:
    async with running_mesh(models=[ServedModel(id="e", kind="embed")]) as mesh:
        serving = [name for name in SERVICES if await health_of(mesh, name) == [HealthCheckResponse.SERVING]]

    assert serving == ["zhinao.embedding.v1.EmbeddingService"]


async def test_who_watches_health_hears_each_change() -> None:
    async with running_mesh() as mesh:
        call = HealthStub(mesh.channel).Watch(HealthCheckRequest(service=SERVICES[0]))
        first = (await call.read()).status
        mesh.triton.ping_script = [EndWithStatus(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")]
        second = (await call.read()).status
        call.cancel()

    assert (first, second) == (HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING)


async def test_reflection_names_the_services(mesh: Mesh) -> None:
    call = ServerReflectionStub(mesh.channel).ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]))
    (answer,) = [each async for each in call]

    assert {*SERVICES, "grpc.health.v1.Health"} <= {each.name for each in answer.list_services_response.service}


async def test_n_is_refused_before_anything_is_kept_for_each_answer(mesh: Mesh) -> None:
    request = question()
    request.n = 2**32 - 1

    error, info = await failure(mesh, request)

    assert (error.code(), info.metadata["param"]) == (grpc.StatusCode.INVALID_ARGUMENT, "n")
    assert error.details() == "n is 4294967295; it must be between 1 and 128"


async def test_bytes_that_are_no_message_are_refused_and_counted(mesh: Mesh) -> None:
    generate = mesh.channel.unary_stream("/zhinao.chat.v1.ChatService/Generate")
    embed = mesh.channel.unary_unary("/zhinao.embedding.v1.EmbeddingService/Embed")

    with pytest.raises(grpc.aio.AioRpcError) as streamed:
        _ = [piece async for piece in generate(b"\xff\xff")]
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await embed(b"\xff\xff")

    for caught, method in ((streamed, "ChatService/Generate"), (unary, "EmbeddingService/Embed")):
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert method in caught.value.details()
        assert error_info(caught.value).reason == Reason.INVALID_REQUEST


@pytest.mark.parametrize(
    "path", ["/zhinao.chat.v1.ChatService/Guess", "/zhinao.chat.v9.ChatService/Generate", "/a.B/C"]
)
async def test_an_unknown_method_is_refused_and_counted(mesh: Mesh, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.channel.unary_unary(path)(b"x")

    assert (caught.value.code(), error_info(caught.value).reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_RPC")
    assert caught.value.details() == f"there is no method {path}"
    metrics = (await mesh.http.get("/metrics")).text
    assert 'mesh_requests_total{code="UNIMPLEMENTED",route="unmatched"}' in metrics


@pytest.mark.parametrize("length", [100_001, 150_000])
async def test_a_message_that_is_too_long_is_refused_and_counted(mesh: Mesh, length: int) -> None:
    request = question()
    request.chat.messages[0].content = "x" * length

    error, info = await failure(mesh, request)

    assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")
    assert error.details() == f"the message is {request.ByteSize()} bytes, the limit is 100000"
    assert mesh.triton.received == []
    metrics = (await mesh.http.get("/metrics")).text
    assert 'mesh_requests_total{code="INVALID_ARGUMENT",route="/zhinao.chat.v1.ChatService/Generate"}' in metrics


async def test_a_failure_repeats_no_more_of_a_request_than_trailers_may_hold(mesh: Mesh) -> None:
    error, info = await failure(mesh, question(model="模" * 30_000))

    assert (error.code(), info.reason) == (grpc.StatusCode.NOT_FOUND, Reason.MODEL_NOT_FOUND)
    size = sum(len(key) + len(value) for key, value in error.trailing_metadata())
    assert size + 3 * len(error.details().encode()) < 8_000
