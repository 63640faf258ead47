"""The gateway's small parts, each alone."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferResponse

from meshkit.errors import TABLE, MeshError, Reason
from meshkit.wire import Operation
from services.gateway.call import CURRENT, begin_call
from services.gateway.catalog import Catalog, ServedModel
from services.gateway.errors import error_body, error_response
from services.gateway.settings import GatewaySettings
from services.gateway.translate.problems import to_param
from services.gateway.upstream.frames import is_final, pack_request, unpack_response

CHAT = ServedModel(id="a/chat", kind="chat")
OTHER = ServedModel(id="other", kind="chat")
EMBED = ServedModel(id="vectors", kind="embed")


@pytest.mark.parametrize(("name", "found"), [(None, CHAT), ("", CHAT), ("a/chat", CHAT), ("other", OTHER)])
def test_a_request_without_a_model_means_the_first_chat_model(name: str | None, found: ServedModel) -> None:
    assert Catalog([EMBED, CHAT, OTHER]).find_kind("chat", name) == found


@pytest.mark.parametrize(
    ("look", "words"),
    [
        (lambda: Catalog([CHAT]).find("nope"), "'nope' does not exist"),
        (lambda: Catalog([CHAT]).find_kind("chat", "nope"), "'nope' does not exist"),
        (lambda: Catalog([CHAT, EMBED]).find_kind("chat", "vectors"), "of kind embed"),
        (lambda: Catalog([EMBED]).find_kind("chat", None), "no chat model"),
    ],
)
def test_a_model_that_cannot_chat_is_not_found(look: Callable[[], ServedModel], words: str) -> None:
    with pytest.raises(MeshError, match=words) as caught:
        look()

    assert (caught.value.reason, caught.value.param) == (Reason.MODEL_NOT_FOUND, "model")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_HTTP_PORT", "8401")
    monkeypatch.setenv("GATEWAY_GRPC_PORT", "8402")
    monkeypatch.setenv("GATEWAY_UPSTREAM", "127.0.0.1:8403")
    monkeypatch.setenv("GATEWAY_MODELS", '[{"id": "a/chat", "kind": "chat"}]')

    settings = GatewaySettings()  # pyright: ignore[reportCallIssue] -- its fields come from the environment

    assert (settings.host, settings.http_port, settings.grpc_port) == ("127.0.0.1", 8401, 8402)
    assert settings.models == (CHAT,)
    assert (settings.max_body_bytes, settings.request_timeout_s) == (8 * 1024 * 1024, 600)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("http_port", 70_000),
        ("upstream", "nowhere"),
        ("models", (CHAT, CHAT)),
        ("max_body_bytes", 0),
        ("request_timeout_s", -1),
    ],
)
def test_a_bad_setting_is_named(field: str, value: object) -> None:
    good: dict[str, object] = {"http_port": 0, "grpc_port": 0, "upstream": "h:1", "models": (CHAT,)}

    with pytest.raises(ValidationError) as caught:
        GatewaySettings.model_validate({**good, field: value})

    assert [each["loc"] for each in caught.value.errors()] == [(field,)]


SERVED = {"http_port": 0, "grpc_port": 0, "upstream": "h:1", "models": (CHAT,)}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_a_gateway_that_others_reach_asks_for_keys_or_was_told_to_serve_everybody(host: str) -> None:
    with pytest.raises(ValidationError, match=f"GATEWAY_HOST {host} is reachable .* GATEWAY_INSECURE_NO_KEYS=true"):
        GatewaySettings.model_validate({**SERVED, "host": host})

    for allowed in ({"database_url": "sqlite:///x"}, {"insecure_no_keys": True}):
        assert GatewaySettings.model_validate({**SERVED, "host": host, **allowed}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_gateway_that_only_its_machine_reaches_needs_no_keys(host: str) -> None:
    assert GatewaySettings.model_validate({**SERVED, "host": host}).database_url is None


@given(payload=st.binary(), request_id=st.text("abc-", max_size=8))
def test_a_frame_holds_its_payload_behind_its_length(payload: bytes, request_id: str) -> None:
    frame = pack_request("chat", payload, request_id=request_id, operation=Operation.GENERATE)
    content = frame.raw_input_contents[0]

    response = ModelInferResponse(
        outputs=[ModelInferResponse.InferOutputTensor(name="response", datatype="BYTES", shape=[1])],
        raw_output_contents=[content],
    )

    assert unpack_response(response) == payload
    assert (frame.model_name, frame.id, frame.parameters["operation"].string_param) == ("chat", request_id, "generate")


@pytest.mark.parametrize(
    ("parameters", "final"),
    [
        ({}, False),
        ({"x": True}, False),
        ({"triton_final_response": True}, True),
        ({"triton_final_response": False}, False),
    ],
)
def test_the_final_frame_says_so(parameters: dict[str, bool], final: bool) -> None:
    response = ModelInferResponse(
        parameters={name: InferParameter(bool_param=value) for name, value in parameters.items()}
    )

    assert is_final(response) is final
    assert unpack_response(response) is None


@pytest.mark.parametrize(
    ("location", "param"),
    [((), None), (("messages",), "messages"), (("messages", 0, "role"), "messages[0].role"), (("stop", 3), "stop[3]")],
)
def test_a_path_is_written_as_a_client_would(location: tuple[int | str, ...], param: str | None) -> None:
    assert to_param(location) == param


@pytest.mark.parametrize("reason", Reason)
def test_every_failure_has_the_one_body(reason: Reason) -> None:
    begin_call("find-me", None, None)

    body = error_body(MeshError(reason, "inner text", param="stop"))["error"]

    assert (body["type"], body["param"], body["code"]) == (TABLE[reason].openai_type, "stop", TABLE[reason].openai_code)
    assert ("find-me" if reason is Reason.INTERNAL else "inner text") in body["message"]
    assert (reason is Reason.INTERNAL) == ("inner text" not in body["message"])


def test_an_error_that_quotes_broken_unicode_can_be_sent() -> None:
    response = error_response(MeshError(Reason.INVALID_REQUEST, "got '\ud800'"), "/v1/embeddings")

    assert rb"\ud800" in bytes(response.body)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("a\n", False), ("", False)],
)
def test_only_a_sane_request_id_is_kept(sent: str, kept: bool) -> None:
    call = begin_call(sent, None, None)

    assert (call.request_id == sent) is kept
    assert CURRENT.get() is call
