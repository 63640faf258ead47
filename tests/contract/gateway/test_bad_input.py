"""What a client can get wrong, and the answer that tells it so."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from services.gateway import boundary
from services.gateway.call import Call, begin_call
from tests.contract.gateway.conftest import Mesh
from zhinao.chat.v1.chat_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER

pytestmark = pytest.mark.asyncio(loop_scope="session")

USER = {"role": "user", "content": "hi"}
CHAT = "/v1/chat/completions"


def chat(**fields: object) -> dict[str, object]:
    return {"messages": [USER], **fields}


def check(answer: httpx.Response, status: int, param: str | None, code: str) -> str:
    """Assert the one error shape, and return the sentence."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), error["message"]
    assert answer.headers["x-request-id"]
    return error["message"]


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        ({}, "messages", "missing_required_parameter", ["required"]),
        ({"messages": None}, "messages", "invalid_type", ["list"]),
        ({"messages": []}, "messages", "invalid_value", ["at least 1", "got 0"]),
        ({"messages": "hi"}, "messages", "invalid_type", ["list"]),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type", ["must be an object"]),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter", []),
        (
            {"messages": [USER, {"role": "robot", "content": ""}]},
            "messages[1].role",
            "invalid_value",
            ["developer", '"robot"'],
        ),
        ({"messages": [{"role": "function", "content": ""}]}, "messages[0].role", "unsupported_parameter", []),
        ({"messages": [{"role": 3, "content": ""}]}, "messages[0].role", "invalid_type", ["string", "got 3"]),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter", []),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages[0].content",
            "invalid_type",
            ["text parts", "got null"],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "unsupported_parameter",
            ['"image_url"'],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "missing_required_parameter",
            [],
        ),
        (chat(model=7), "model", "invalid_type", ["got 7"]),
        (chat(stream="yes"), "stream", "invalid_type", []),
        (chat(stream_options={"include_usage": True}), "stream_options", "invalid_value", ["stream is true"]),
        (chat(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage", "invalid_type", []),
        (chat(max_tokens=-5), "max_tokens", "invalid_value", ["1", "got -5"]),
        (chat(max_tokens=0), "max_tokens", "invalid_value", ["1", "got 0"]),
        (chat(max_completion_tokens=2**32), "max_completion_tokens", "invalid_value", [str(2**32 - 1), str(2**32)]),
        (chat(max_tokens=10**300), "max_tokens", "invalid_value", ["…"]),
        (chat(max_tokens=1.5), "max_tokens", "invalid_type", ["integer"]),
        (chat(max_tokens=5, max_new_tokens=6), "max_new_tokens", "invalid_value", ["max_tokens 5", "max_new_tokens 6"]),
        (chat(temperature=2.5), "temperature", "invalid_value", ["2", "got 2.5"]),
        (chat(temperature=-0.1), "temperature", "invalid_value", ["0"]),
        (chat(temperature="0.5"), "temperature", "invalid_type", ["number"]),
        (chat(temperature=True), "temperature", "invalid_type", []),
        (chat(top_p=0), "top_p", "invalid_value", ["greater than 0"]),
        (chat(top_k=-2), "top_k", "invalid_value", ["-1", "got -2"]),
        (chat(seed=2**64), "seed", "invalid_value", []),
        (chat(seed=1.5), "seed", "invalid_type", []),
        (chat(stop=["a"] * 17), "stop", "invalid_value", ["16", "17"]),
        (chat(stop=[1]), "stop[0]", "invalid_type", []),
        (chat(top_logprobs=3), "top_logprobs", "invalid_value", ["3", "logprobs is true"]),
        (chat(logprobs=True, top_logprobs=21), "top_logprobs", "invalid_value", ["20", "got 21"]),
        (chat(repetition_penalty=0), "repetition_penalty", "invalid_value", ["greater than 0", "got 0"]),
        (chat(repetition_penalty=2.1), "repetition_penalty", "invalid_value", ["2", "got 2.1"]),
        (chat(presence_penalty=2.5), "presence_penalty", "invalid_value", ["2", "got 2.5"]),
        (chat(frequency_penalty=-3), "frequency_penalty", "invalid_value", ["-2", "got -3"]),
        (chat(min_p=1.5), "min_p", "invalid_value", ["1", "got 1.5"]),
        (chat(n=0), "n", "invalid_value", ["1", "got 0"]),
        (chat(n=129), "n", "invalid_value", ["128", "got 129"]),
        (chat(logit_bias={"five": 1}), "logit_bias", "invalid_value", ["token ids", "'five'"]),
        (chat(logit_bias={"-1": 1}), "logit_bias", "invalid_value", ["token ids"]),
        (chat(logit_bias={"5": 101}), "logit_bias[5]", "invalid_value", ["100", "got 101"]),
        (chat(logit_bias=[5]), "logit_bias", "invalid_type", ["dict"]),
        (chat(logit_bias=dict.fromkeys(map(str, range(1025)), 1)), "logit_bias", "invalid_value", ["1024", "1025"]),
        (chat(bad_token_ids=[-1]), "bad_token_ids[0]", "invalid_value", ["0", "got -1"]),
        (chat(allowed_token_ids=[1] * 1025), "allowed_token_ids", "invalid_value", ["1024", "1025"]),
        (chat(stop_token_ids=["a"]), "stop_token_ids[0]", "invalid_type", []),
        (chat(bad_words=["damn"]), "bad_words", "unsupported_parameter", []),
        (chat(min_tokens=-1), "min_tokens", "invalid_value", ["0", "got -1"]),
        (chat(ignore_eos=1), "ignore_eos", "invalid_type", []),
        (chat(prompt_logprobs=21), "prompt_logprobs", "invalid_value", ["20", "got 21"]),
        (chat(prompt_logprobs=1, stream=True), "prompt_logprobs", "invalid_value", ["stream is not true"]),
        (chat(priority="urgent"), "priority", "invalid_value", ["'bulk'", '"urgent"']),
        (chat(speculate="yes"), "speculate", "invalid_type", []),
        (chat(functions=[{}]), "functions", "unsupported_parameter", []),
        (chat(store=True), "store", "unsupported_parameter", []),
    ],
)
async def test_a_bad_chat_field_is_named(
    mesh: Mesh, body: dict[str, object], param: str, code: str, words: list[str]
) -> None:
    answer = await mesh.http.post(CHAT, json=body)

    message = check(answer, 400, param, code)
    assert message.startswith(param.split(".")[0].split("[")[0]) or param == "max_new_tokens"
    for word in words:
        assert word in message
    assert mesh.triton.received == []


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "invalid_type"),
        ({"prompt": [[]]}, "prompt[0]", "invalid_type"),
        ({"prompt": ["a", [1, -1]]}, "prompt[1]", "invalid_type"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt", "invalid_value"),
        ({"prompt": [1, "a"]}, "prompt", "invalid_type"),
        ({"prompt": [-1]}, "prompt", "invalid_type"),
        ({"prompt": [True]}, "prompt", "invalid_type"),
        ({"prompt": [2**32]}, "prompt", "invalid_type"),
        ({"prompt": "a", "logprobs": 6}, "logprobs", "invalid_value"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "invalid_type"),
        ({"prompt": "a", "echo": "yes"}, "echo", "invalid_type"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"prompt": "a", "best_of": 2}, "best_of", "unsupported_parameter"),
    ],
)
async def test_a_bad_completion_field_is_named(mesh: Mesh, body: dict[str, object], param: str, code: str) -> None:
    check(await mesh.http.post("/v1/completions", json=body), 400, param, code)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "invalid_type"),
        (b"null", "invalid_type"),
        (b"[]", "invalid_type"),
        (b"7", "invalid_type"),
        (b'{"messages": [', "invalid_json"),
        (b"{'messages': []}", "invalid_json"),
        (b"\xff\xfe\xfa", "invalid_json"),
        (b"[" * 90_000, "invalid_json"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "invalid_json"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(mesh: Mesh, text: bytes, code: str) -> None:
    answer = await mesh.http.post(CHAT, content=text, headers={"content-type": "application/json"})

    check(answer, 400, None, code)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_number_that_is_not_finite_is_refused(mesh: Mesh, number: str) -> None:
    text = json.dumps(chat())[:-1] + f', "temperature": {number}}}'

    answer = await mesh.http.post(CHAT, content=text, headers={"content-type": "application/json"})

    assert "finite" in check(answer, 400, "temperature", "invalid_value")


@pytest.mark.parametrize(
    ("path", "text", "param"),
    [
        (CHAT, r'{"messages": [{"role": "user", "content": "a\ud800"}]}', "messages[0].content"),
        (CHAT, r'{"messages": [{"role": "\udfff", "content": "a"}]}', "messages[0].role"),
        (CHAT, r'{"model": "\ud800", "messages": [{"role": "user", "content": "a"}]}', "model"),
        (CHAT, r'{"stop": ["\ud800"], "messages": [{"role": "user", "content": "a"}]}', "stop[0]"),
        ("/v1/completions", r'{"prompt": "\ud800"}', "prompt"),
    ],
)
async def test_a_lone_surrogate_is_refused_and_does_not_crash(mesh: Mesh, path: str, text: str, param: str) -> None:
    answer = await mesh.http.post(path, content=text, headers={"content-type": "application/json"})

    check(answer, 400, param, "invalid_value")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_does_not_say_it_is_json_is_refused(mesh: Mesh, content_type: str) -> None:
    answer = await mesh.http.post(CHAT, content=json.dumps(chat()), headers={"content-type": content_type})

    assert "application/json" in check(answer, 415, None, "unsupported_media_type")


async def test_json_with_a_charset_is_accepted(mesh: Mesh) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    assert (await mesh.http.post(CHAT, content=json.dumps(chat()), headers=headers)).status_code == 200


async def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(mesh: Mesh) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(mesh.url).port)

    headers = b"host: a\r\ncontent-type: application/json\r\ncontent-length: 10000000\r\n"
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n" + headers + b"\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readuntil(b"}}")
    writer.close()
    await writer.wait_closed()

    assert head.startswith(b"HTTP/1.1 413 ") and b"x-request-id" in head
    assert b"10000000 bytes, the limit is 100000" in body and b"request_too_large" in body


async def test_a_large_body_is_refused_however_it_is_sent(mesh: Mesh) -> None:
    answer = await mesh.http.post(CHAT, content=b" " * 10_000_000, headers={"content-type": "application/json"})

    assert "the limit is 100000" in check(answer, 413, None, "request_too_large")


async def test_a_body_that_grows_too_large_is_refused(mesh: Mesh) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 10_000

    answer = await mesh.http.post(CHAT, content=chunks(), headers={"content-type": "application/json"})

    assert "100000 bytes" in check(answer, 413, None, "request_too_large")


async def test_an_unknown_route_and_a_wrong_method_are_told_in_the_same_shape(mesh: Mesh) -> None:
    check(await mesh.http.get("/v1/nothing"), 404, None, "unknown_url")
    check(await mesh.http.post("/v1/chat/completions/", json=chat()), 404, None, "unknown_url")
    wrong = await mesh.http.get(CHAT)
    check(wrong, 405, None, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


async def test_harmless_values_and_nulls_pass(mesh: Mesh) -> None:
    body = chat(
        n=1, presence_penalty=0, frequency_penalty=0.0, repetition_penalty=1, logit_bias={}, tools=[], store=False,
        tool_choice="none", response_format={"type": "text"}, prediction=None, modalities=["text"],
        parallel_tool_calls=True, model=None, stream=None, stream_options=None, max_tokens=7, max_new_tokens=7,
        max_completion_tokens=None, stop=None, temperature=None, top_p=None, top_k=None, do_sample=None, seed=None,
        logprobs=False, top_logprobs=None, truncate_prompt=True,
    )  # fmt: skip

    answer = await mesh.http.post(CHAT, json=body)

    assert answer.status_code == 200, answer.text
    assert "x-ignored-params" not in answer.headers
    assert mesh.triton.request.truncate_prompt
    sampling = mesh.triton.request.sampling
    assert not any(map(sampling.HasField, ("temperature", "top_p", "top_k", "do_sample")))


async def test_unknown_fields_are_accepted_and_listed(mesh: Mesh) -> None:
    answer = await mesh.http.post(CHAT, json=chat(**{"mirostat": 2, "backend": "x", "bad\r\nname": 1, "名": 1}))

    assert answer.status_code == 200
    assert answer.headers["x-ignored-params"] == "mirostat, backend"


HOSTED = {
    "user": "me",
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
}
PARTS = [
    ({"messages": [{**USER, "name": "me", "refusal": None}]}, "messages[0].name"),
    ({"messages": [{**USER, "content": [{"type": "text", "text": "a", "cache_control": {}}]}]}, None),
    ({"stream": True, "stream_options": {"include_obfuscation": False}}, "stream_options.include_obfuscation"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "more": 1}}}, None),
]


@pytest.mark.parametrize(("fields", "name"), [*(({name: value}, name) for name, value in HOSTED.items()), *PARTS])
async def test_fields_without_effect_are_listed_or_refused_if_strict(
    mesh: Mesh, fields: dict[str, object], name: str | None
) -> None:
    answer = await mesh.http.post(CHAT, json=chat(**fields))
    refusal = await mesh.http.post(CHAT, json=chat(**fields, strict=True))

    listed = answer.headers["x-ignored-params"]
    assert (answer.status_code, name or listed) == (200, listed)
    check(refusal, 400, listed, "unsupported_parameter")
    assert len(mesh.triton.received) == 1


async def test_a_strict_key_refuses_whatever_the_body_says(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "begin_call", strict_call)

    check(await mesh.http.post(CHAT, json=chat(user="me", strict=False)), 400, "user", "unsupported_parameter")
    assert (await mesh.http.post(CHAT, json=chat())).status_code == 200


def strict_call(*arguments: str | None) -> Call:
    call = begin_call(*arguments)
    call.strict = True
    return call


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True}, {"audio": {}}, {"modalities": ["text", "audio"]}, {"web_search_options": {}},
        {"chat_template_kwargs": {"enable_thinking": False}}, {"continue_final_message": True}, {"documents": ["a"]},
        {"use_beam_search": True}, {"include_stop_str_in_output": True}, {"truncate_prompt_tokens": 5},
    ],
)  # fmt: skip
async def test_what_would_change_the_answer_is_never_ignored(mesh: Mesh, fields: dict[str, object]) -> None:
    check(await mesh.http.post(CHAT, json=chat(**fields)), 400, next(iter(fields)), "unsupported_parameter")


async def test_roles_need_not_alternate_and_parts_are_joined(mesh: Mesh) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "assistant", "content": ""}, {"role": "developer", "content": parts}, USER, USER]

    await mesh.http.post(CHAT, json={"messages": messages})

    sent = mesh.triton.request.chat.messages
    assert [(each.role, each.content) for each in sent] == [
        (ROLE_ASSISTANT, ""),
        (ROLE_SYSTEM, "ab"),
        (ROLE_USER, "hi"),
        (ROLE_USER, "hi"),
    ]
