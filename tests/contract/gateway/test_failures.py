"""Every way a worker can fail, as HTTP tells it: before the first byte by status, after it by one last event."""

import json
import logging

import grpc
import pytest

from meshkit.errors import TABLE, MeshError, Reason
from meshkit.wire import encode_error
from tests.contract.gateway.conftest import Mesh
from tests.fakes.triton import ErrorText, Status, Step, Vanish, last, piece

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}]}
TOLD = sorted(set(Reason) - {Reason.INTERNAL, Reason.CLIENT_CANCELLED})


def worker_says(reason: Reason) -> ErrorText:
    return ErrorText(encode_error(MeshError(reason, "limit 5, got 6", param="stop")))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", TOLD)
async def test_a_failure_with_a_name_is_told_by_the_table(mesh: Mesh, reason: Reason, stream: bool) -> None:
    mesh.triton.script = [worker_says(reason)]

    answer = await mesh.http.post(CHAT, json={**BODY, "stream": stream})

    row = TABLE[reason]
    assert answer.status_code == row.http
    assert answer.json() == {
        "error": {"message": "limit 5, got 6", "type": row.openai_type, "param": "stop", "code": row.openai_code}
    }
    assert ("retry-after" in answer.headers) == (reason in (Reason.QUEUE_FULL, Reason.NOT_READY))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (ErrorText("Request for unknown model: 'chat' is not found"), Reason.NOT_READY),
        (
            ErrorText("Server is stopping, scheduler for model 'chat' has stopped accepting new requests"),
            Reason.NOT_READY,
        ),
        (ErrorText("Stub process 'chat_0_0' is not healthy."), Reason.UPSTREAM_LOST),
        (ErrorText("[mesh CLIENT_CANCELLED] aborted"), Reason.UPSTREAM_LOST),
        (ErrorText("[mesh INTERNAL] secret path /srv"), Reason.INTERNAL),
        (ErrorText("Traceback: secret path /srv"), Reason.INTERNAL),
        (Status(grpc.StatusCode.UNAVAILABLE, "secret connection termination"), Reason.UPSTREAM_LOST),
        (Status(grpc.StatusCode.UNAVAILABLE, "no healthy upstream, secret"), Reason.NOT_READY),
        (Status(grpc.StatusCode.UNAVAILABLE, "secret reset reason: remote connection failure"), Reason.NOT_READY),
        (Status(grpc.StatusCode.UNAVAILABLE, "secret reset reason: overflow"), Reason.QUEUE_FULL),
        (Status(grpc.StatusCode.CANCELLED, "secret"), Reason.UPSTREAM_LOST),
        (Status(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"), Reason.UPSTREAM_LOST),
        (Status(grpc.StatusCode.NOT_FOUND, "secret"), Reason.NOT_READY),
        (Status(grpc.StatusCode.DEADLINE_EXCEEDED, "secret"), Reason.DEADLINE),
        (Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "secret"), Reason.QUEUE_FULL),
        (Status(grpc.StatusCode.UNKNOWN, "secret"), Reason.INTERNAL),
        (Vanish(), Reason.UPSTREAM_LOST),
    ],
)
async def test_a_failure_without_a_name_gets_one_and_its_text_stays_inside(
    mesh: Mesh, step: Step, reason: Reason
) -> None:
    await mesh.http.post(CHAT, json=BODY)  # that the model answered before makes no difference
    mesh.triton.script = [step]

    answer = await mesh.http.post(CHAT, json=BODY)

    assert answer.status_code == TABLE[reason].http
    assert answer.json()["error"]["code"] == TABLE[reason].openai_code
    assert "secret" not in answer.text


async def test_an_internal_failure_is_told_by_request_id_and_logged_with_its_text(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.triton.script = [ErrorText("Traceback: disk on fire")]

    answer = await mesh.http.post(CHAT, json=BODY, headers={"x-request-id": "find-me"})

    assert answer.status_code == 500
    assert "find-me" in answer.json()["error"]["message"]
    assert "disk on fire" in caplog.text


async def test_an_answer_that_ends_without_a_reason_is_a_failure(mesh: Mesh) -> None:
    mesh.triton.script = [piece("half")]

    assert (await mesh.http.post(CHAT, json=BODY)).status_code == 500


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (worker_says(Reason.DEADLINE), "deadline_exceeded"),
        (Status(grpc.StatusCode.UNAVAILABLE), "upstream_unavailable"),
        (Vanish(), "upstream_unavailable"),
        (ErrorText("Traceback: secret"), None),
    ],
)
@pytest.mark.parametrize(("path", "field"), [(CHAT, "messages"), ("/v1/completions", "prompt")])
async def test_a_failure_after_the_first_byte_is_the_last_event_and_there_is_no_done(
    mesh: Mesh, step: Step, code: str | None, path: str, field: str
) -> None:
    mesh.triton.script = [piece("half"), step]
    prompt = BODY["messages"] if field == "messages" else "hi"

    answer = await mesh.http.post(path, json={field: prompt, "stream": True})

    assert answer.status_code == 200
    *_, end = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert end["error"]["code"] == code
    assert "[DONE]" not in answer.text and "secret" not in answer.text


async def test_a_bug_of_ours_is_a_500_in_the_same_shape(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("services.gateway.routes.chat.to_chat_request", broken)

    answer = await mesh.http.post(CHAT, json=BODY)

    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_bug_of_ours_in_a_stream_is_its_last_event(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("services.gateway.translate.chat.to_finish_reason", broken)

    answer = await mesh.http.post(CHAT, json={**BODY, "stream": True})

    assert '"server_error"' in answer.text
    assert "[DONE]" not in answer.text and "secret" not in answer.text
    assert "ZeroDivisionError" in caplog.text


async def test_nothing_of_a_conversation_is_logged(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="services")
    mesh.triton.script = [piece("mellow"), last()]

    await mesh.http.post(CHAT, json={"messages": [{"role": "user", "content": "yellow"}]})

    (record,) = [record for record in caplog.records if record.name == "services.gateway.requests"]
    fields = record.__dict__["fields"]
    assert (fields["route"], fields["status"], fields["model"]) == (CHAT, "200", "zhinao-chat")
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (5, 3)
    logged = caplog.text + str([record.__dict__ for record in caplog.records])
    assert "yellow" not in logged and "mellow" not in logged
