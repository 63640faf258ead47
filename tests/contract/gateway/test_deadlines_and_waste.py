"""What a client's own time limit does, what is counted as generated for nobody, and what an answer says of its time."""

import asyncio
import logging
import re

import grpc
import pytest

from meshkit.errors import MeshError, Reason
from meshkit.wire import encode_error
from services.gateway.call import begin_call
from services.gateway.upstream import triton
from tests.contract.gateway.conftest import Mesh, metrics_hold, running_mesh
from tests.fakes.triton import HELLO, ErrorText, Hold, Status, Vanish, last, piece, vectors
from zhinao.chat.v1.chat_pb2 import GenerateRequest
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}]}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


async def test_the_clients_time_limit_reaches_the_worker(mesh: Mesh) -> None:
    await mesh.http.post(CHAT, json=BODY, headers={"x-request-timeout": "2.5"})

    assert 2 < mesh.triton.request.timeout_s <= 2.5


async def test_a_longer_time_limit_than_the_gateways_changes_nothing(mesh: Mesh) -> None:
    await mesh.http.post(CHAT, json=BODY, headers={"x-request-timeout": "9999"})

    assert 29 < mesh.triton.request.timeout_s <= 30  # what is left of it


@pytest.mark.parametrize(("given_s", "most_s"), [(2.5, 2.5), (9999, 30)])
async def test_the_deadline_of_a_call_reaches_the_worker_within_the_gateways_own(
    mesh: Mesh, given_s: float, most_s: float
) -> None:
    _ = [each async for each in ChatServiceStub(mesh.channel).Generate(GenerateRequest(text="hi"), timeout=given_s)]

    assert most_s - 1 < mesh.triton.request.timeout_s < most_s + 0.1  # gRPC rounds deadlines up


async def test_a_call_whose_time_is_over_asks_no_worker() -> None:
    call = begin_call(None, None, None)
    call.timeout = 1e-9

    with pytest.raises(MeshError) as caught:
        call.time_left_s()

    assert caught.value.reason is Reason.DEADLINE


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_a_worker_that_takes_longer_than_the_client_gives_is_a_504_at_once(mesh: Mesh, path: str) -> None:
    mesh.triton.script = [Hold()]

    answer = await mesh.http.post(path, json={**BODY, "input": "a"}, headers={"x-request-timeout": "0.5"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    await asyncio.wait_for(mesh.triton.cancelled.wait(), 5)


@pytest.mark.parametrize("end", [Vanish(), Status(grpc.StatusCode.CANCELLED), Status(grpc.StatusCode.UNAVAILABLE)])
async def test_a_call_that_triton_ends_because_its_time_is_over_is_a_504(
    mesh: Mesh, end: Vanish | Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.triton.script = [piece("Hel"), end]
    in_time = await mesh.http.post(CHAT, json=BODY)
    monkeypatch.setattr(triton, "_EARLY_S", 3600.0)  # as if the time were over now

    late = await mesh.http.post(CHAT, json=BODY)

    assert in_time.status_code == 502
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("value", ["120318.76361915212", "2.5e1", "999999"])
async def test_a_time_limit_is_any_number_that_the_document_allows(mesh: Mesh, value: str) -> None:
    answer = await mesh.http.post(CHAT, json=BODY, headers={"x-request-timeout": value})

    assert answer.status_code == 200


@pytest.mark.parametrize("value", ["", "soon", "-1", "0", "0.0", "1e6", "1_0", "inf", "nan", "9" * 50, "1e" + "9" * 50])
async def test_a_time_limit_that_is_no_time_is_refused(mesh: Mesh, value: str) -> None:
    answer = await mesh.http.post(CHAT, json=BODY, headers={"x-request-timeout": value})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-request-timeout"


async def test_tokens_of_a_client_who_left_and_of_a_failure_are_counted_as_wasted() -> None:
    async with running_mesh() as mesh:
        mesh.triton.script = [piece("ab", 1, 2), Hold()]
        async with mesh.http.stream("POST", CHAT, json={**BODY, "stream": True}) as answer:
            await anext(answer.aiter_lines())
            await mesh.triton.holding.wait()
        await metrics_hold(mesh, 'mesh_wasted_tokens_total{reason="CLIENT_CANCELLED"} 2.0')

        mesh.triton.script = [piece("a"), ErrorText(encode_error(MeshError(Reason.DEADLINE, "late")))]
        await mesh.http.post(CHAT, json=BODY)
        await metrics_hold(mesh, 'mesh_wasted_tokens_total{reason="DEADLINE"} 1.0')


async def test_tokens_of_a_whole_answer_are_not_wasted() -> None:
    async with running_mesh() as mesh:
        mesh.triton.script = [piece("a"), last("b")]
        await mesh.http.post(CHAT, json=BODY)
        await mesh.http.post(CHAT, json={**BODY, "stream": True})

        assert "mesh_wasted_tokens_total{" not in (await mesh.http.get("/metrics")).text


async def test_clients_refused_one_after_the_other_are_told_growing_waits() -> None:
    async with running_mesh() as mesh:
        mesh.triton.script = [ErrorText(encode_error(MeshError(Reason.QUEUE_FULL, "full")))]
        answers = [await mesh.http.post(CHAT, json=BODY | {"max_tokens": 1 + number}) for number in range(3)]
        again = await mesh.http.post(CHAT, json=BODY | {"max_tokens": 3})

        *waits_ms, again_ms = (int(answer.headers["retry-after-ms"]) for answer in (*answers, again))
        assert waits_ms == sorted(waits_ms)
        assert again_ms < waits_ms[2]  # who asks again does not begin at the end
        assert all(answer.headers["x-should-retry"] == "true" for answer in answers)


async def test_a_newcomer_is_refused_without_the_worker_while_others_wait_and_bulk_waits_in_a_line_of_its_own() -> None:
    async with running_mesh() as mesh:
        mesh.triton.script = [piece("a"), hold := Hold(), last("b")]
        running = asyncio.create_task(mesh.http.post(CHAT, json=BODY))
        await mesh.triton.holding.wait()
        mesh.triton.script = [ErrorText(encode_error(MeshError(Reason.QUEUE_FULL, "full")))]
        assert (await mesh.http.post(CHAT, json=BODY | {"max_tokens": 1})).status_code == 503
        mesh.triton.script = HELLO

        newcomer = await mesh.http.post(CHAT, json=BODY | {"max_tokens": 2})
        bulk = await mesh.http.post(CHAT, json=BODY | {"max_tokens": 2, "priority": "bulk"})

        assert (newcomer.status_code, newcomer.json()["error"]["code"]) == (503, "server_overloaded")
        assert (bulk.status_code, len(mesh.triton.received)) == (200, 3)
        hold.release.set()
        assert (await running).status_code == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/health", "/nowhere"])
async def test_every_answer_says_where_its_time_went(mesh: Mesh, path: str) -> None:
    if path == "/v1/embeddings":
        mesh.triton.script = [vectors([1.0, 0.0])]
    answer = await mesh.http.post(path, json={**BODY, "input": "a"})

    total, *worker = re.findall(r"\w+;dur=([\d.]+)", answer.headers["server-timing"])
    assert answer.headers["openai-processing-ms"] == total
    assert len(worker) == (answer.status_code == 200)
    assert all(float(part) <= float(total) for part in worker)


async def test_the_log_line_names_the_trace(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="services")

    await mesh.http.post(CHAT, json=BODY, headers={"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"})

    (record,) = [record for record in caplog.records if record.name == "services.gateway.requests"]
    assert record.__dict__["fields"]["trace_id"] == TRACE_ID


@pytest.mark.parametrize("path", ["/health", "/ready", "/serving", "/metrics"])
async def test_probes_are_logged_only_in_detail(mesh: Mesh, caplog: pytest.LogCaptureFixture, path: str) -> None:
    caplog.set_level(logging.DEBUG, logger="services")

    await mesh.http.get(path)

    assert [record.levelno for record in caplog.records if record.message == "request ended"] == [logging.DEBUG]
