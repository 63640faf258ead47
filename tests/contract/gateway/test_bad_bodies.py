"""Bodies that are refused before their fields are looked at, and routes that are not there."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.contract.gateway.conftest import Mesh
from tests.contract.gateway.refusals import CHAT, chat, check

pytestmark = pytest.mark.asyncio(loop_scope="session")


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
