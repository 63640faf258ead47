"""What every HTTP answer carries, and what operators ask."""

import asyncio
import json
import re
from importlib.metadata import version

import httpx
import pytest

from services.gateway import document
from tests.contract.gateway.conftest import Mesh
from tests.fakes.triton import ErrorText, Hold, last, piece

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("path", ["/health", "/ready", "/serving"])
async def test_probes_may_ask_for_the_head_alone(mesh: Mesh, path: str) -> None:
    answer = await mesh.http.head(path)

    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/nothing"])
async def test_a_sane_request_id_comes_back(mesh: Mesh, path: str) -> None:
    answer = await mesh.http.get(path, headers={"x-request-id": "trace-7"})

    assert answer.headers["x-request-id"] == "trace-7"


@pytest.mark.parametrize("bad", [b"", b"x" * 129, "\u4f60".encode(), b"two words"])
async def test_an_insane_request_id_is_replaced(mesh: Mesh, bad: bytes) -> None:
    answers = [await mesh.http.get("/health", headers=[(b"x-request-id", bad)]) for _ in range(2)]

    first, second = (answer.headers["x-request-id"] for answer in answers)
    assert len(first) == 32 and first.isascii() and first != second


async def test_request_id_and_trace_reach_the_worker(mesh: Mesh) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"

    await mesh.http.post(CHAT, json=BODY, headers={"x-request-id": "trace-7", "traceparent": traceparent})

    (received,) = mesh.triton.received
    assert received.request.request_id == received.metadata["x-request-id"] == "trace-7"
    assert received.metadata["traceparent"] == traceparent


async def test_a_trace_that_is_none_is_not_passed_on(mesh: Mesh) -> None:
    await mesh.http.post(CHAT, json=BODY, headers={"traceparent": "00-zz"})

    (received,) = mesh.triton.received
    assert "traceparent" not in received.metadata


async def test_an_event_is_one_line_whatever_a_client_takes_for_the_end_of_one(mesh: Mesh) -> None:
    text = "".join(map(chr, [*range(32), 0x85, 0x2028, 0x2029, 0x4F60]))
    mesh.triton.script = (piece(text), last())

    answer = await mesh.http.post(CHAT, json={**BODY, "stream": True})

    lines = [line for line in answer.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == text


async def test_a_stream_is_marked_against_buffering(mesh: Mesh) -> None:
    answer = await mesh.http.post(CHAT, json={**BODY, "stream": True})

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")


async def test_a_stream_of_chinese_is_plain_utf8(mesh: Mesh) -> None:
    mesh.triton.script = [piece("你好\n🎉"), last()]

    answer = await mesh.http.post(CHAT, json={**BODY, "stream": True})

    assert '"content":"你好\\n🎉"' in answer.content.decode()


async def test_a_silent_worker_does_not_make_a_silent_stream(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.sse.KEEP_ALIVE_S", 0.02)
    hold = Hold()
    mesh.triton.script = [piece("a"), hold, last("b")]

    lines: list[str] = []
    async with mesh.http.stream("POST", CHAT, json={**BODY, "stream": True}) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if line == ": keep-alive":
                hold.release.set()

    assert ": keep-alive" in lines
    assert "data: [DONE]" in lines


async def test_ready_says_so_when_every_model_answers_a_ping(mesh: Mesh) -> None:
    answer = await mesh.http.get("/ready")

    assert answer.status_code == 200
    pings = [(each.operation, each.triton_model, each.metadata["x-mesh-model"]) for each in mesh.triton.received]
    assert sorted(pings) == [
        ("ping", "chat", "qihoo360/small"),
        ("ping", "chat", "zhinao-chat"),
        ("ping", "embed", "zhinao-embed"),
        ("ping", "rerank", "zhinao-rerank"),
    ]


@pytest.mark.parametrize("text", ["Stub process 'chat_0_0' is not healthy.", "[mesh DEADLINE] stuck"])
async def test_not_ready_is_a_503_whatever_failed(mesh: Mesh, text: str) -> None:
    mesh.triton.ping_script = [ErrorText(text)]

    answer = await mesh.http.get("/ready")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert "Stub" not in answer.text
    assert (await mesh.http.get("/health")).status_code == 200


async def test_many_streams_run_side_by_side(mesh: Mesh) -> None:
    async def ask() -> httpx.Response:
        return await mesh.http.post(CHAT, json={**BODY, "stream": True})

    answers = await asyncio.gather(*(ask() for _ in range(32)))

    assert all(answer.text.count("[DONE]") == 1 for answer in answers)
    assert len({answer.text.split('"id":"')[1][:20] for answer in answers}) == 32


async def test_metrics_count_requests_by_route_and_code(mesh: Mesh) -> None:
    await mesh.http.post(CHAT, json=BODY)
    await mesh.http.get("/v1/models/qihoo360/small")
    await mesh.http.get("/v1/secret-path")

    text = (await mesh.http.get("/metrics")).text

    assert 'mesh_requests_total{code="200",route="/v1/chat/completions"}' in text
    assert 'mesh_requests_total{code="200",route="/v1/models/{model_id:path}"}' in text
    assert 'mesh_requests_total{code="404",route="unmatched"}' in text
    assert 'gen_ai_server_time_to_first_token_seconds_count{gen_ai_request_model="zhinao-chat"}' in text
    chat = 'gen_ai_operation_name="chat",gen_ai_request_model="zhinao-chat"'
    assert f"gen_ai_server_request_duration_seconds_count{{{chat}}}" in text
    assert f'gen_ai_client_token_usage_sum{{{chat},gen_ai_token_type="output"}}' in text
    assert 'mesh_request_duration_seconds_count{route="/v1/chat/completions"}' in text
    assert "secret-path" not in text and "qihoo360" not in text.replace('model="qihoo360/small"', "")


async def test_the_openapi_document_is_served(mesh: Mesh) -> None:
    assert (await mesh.http.get("/openapi.json")).json() == json.loads(document.text())


async def test_the_page_to_read_it_in_loads_nothing_from_elsewhere(mesh: Mesh) -> None:
    page = (await mesh.http.get("/docs")).text

    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) == 3 and "/openapi.json" in page and "://" not in page
    assert ".response-col_links { display: none }" in page.partition("</head>")[0]
    for asset in assets:
        answer = await mesh.http.get(asset)
        assert answer.status_code == 200 and len(answer.content) > 1000


async def test_the_root_leads_to_the_documentation_and_the_version_is_told(mesh: Mesh) -> None:
    root = await mesh.http.get("/")

    assert (root.status_code, root.headers["location"]) == (307, "/docs")
    assert (await mesh.http.get("/version")).json() == {"version": version("zhinao-mesh")}
