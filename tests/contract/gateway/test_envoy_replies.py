"""What Envoy says where no gateway does: in the same shape, with the id of the request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import cast

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from mesh.plan import EdgeLimits
from tests.fixtures.envoy import running_envoy
from tests.fixtures.servers import free_port
from zhinao.chat.v1.chat_pb2 import GenerateRequest
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="session")

GrpcStatus = tuple[grpc.StatusCode, str, int | None]
Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NO_OTHERS: Mapping[str, int] = MappingProxyType({})
FULL = {"max_pending_requests": 0}
OUT_OF_MEMORY = {"max_heap_size_bytes": 1}
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
LATER = {"retry-after": "1", "retry-after-ms": "1000", "x-should-retry": "true"}


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A gateway that dies while it has a request."""
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A gateway that reads a request and nothing more, until the other side has had enough."""
    await reader.read()
    writer.close()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Something on the gateway's port that speaks no HTTP."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"hello\r\n\r\n")
    await writer.drain()
    writer.close()


class Gateway:
    """It is healthy, and gives every other request this beginning of an answer before it ends the connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.num_asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        is_probe = head.startswith(b"GET /serving ")
        self.num_asked += not is_probe
        writer.write(WHOLE if is_probe else self._answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def edge(
    folder: Path,
    *gateways: Behaviour,
    bounds: Mapping[str, int] = NO_OTHERS,
    limits: EdgeLimits | None = None,
    grpc_port: int | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """Envoy in front of gateways that behave like that, or of one that is not there; the rest is running_envoy's."""
    ports = [free_port() for _ in gateways or "-"]
    async with AsyncExitStack() as stack:
        for gateway, port in zip(gateways, ports, strict=False):
            await stack.enter_async_context(await asyncio.start_server(gateway, "127.0.0.1", port))
        envoy = running_envoy(folder, *ports, grpc_port=grpc_port or free_port(), bounds=bounds, limits=limits)
        edge_port = await stack.enter_async_context(envoy)
        http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{edge_port}", trust_env=False)
        yield await stack.enter_async_context(http)


def check(answer: httpx.Response, status: int, type_: str, code: str | None, headers: dict[str, str]) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"] and set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == (type_, None, code)
    assert error["message"]
    going_on = {"retry-after", "retry-after-ms", "x-should-retry"}
    assert {name: value for name, value in answer.headers.items() if name in going_on} == headers


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_gateway(tmp_path: Path, method: str) -> None:
    async with edge(tmp_path) as http:
        answer = await http.request(method, "/v1/models", headers={"x-request-id": "mine"})

    check(answer, 503, "server_error", "not_ready", LATER)
    assert answer.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("gateway", [hang_up, babble])
async def test_a_gateway_that_is_lost_before_it_answers(tmp_path: Path, gateway: Behaviour) -> None:
    async with edge(tmp_path, gateway) as http:
        answer = await http.post("/v1/chat/completions", json={})

    check(answer, 502, "server_error", "upstream_unavailable", {})
    assert answer.headers["x-request-id"]


async def test_more_requests_than_envoy_may_hold(tmp_path: Path) -> None:
    async with edge(tmp_path, hang_up, bounds=FULL) as http:
        answer = await http.post("/v1/chat/completions", json={}, headers={"x-request-id": "mine"})

    check(answer, 503, "overloaded_error", "server_overloaded", LATER)
    assert answer.headers["x-request-id"] == "mine"


async def test_near_the_end_of_its_memory_envoy_refuses_before_it_asks_a_gateway(tmp_path: Path) -> None:
    async with edge(tmp_path, bounds=OUT_OF_MEMORY) as http, asyncio.timeout(10):
        while (answer := await http.get("/v1/models")).json()["error"]["code"] == "not_ready":
            pass  # it looks at its memory once a second

    check(answer, 503, "overloaded_error", "server_overloaded", LATER)
    assert answer.headers["x-request-id"]


async def test_a_body_that_grows_beyond_the_limit_reaches_no_gateway(tmp_path: Path) -> None:
    gateway = Gateway(WHOLE)
    async with edge(tmp_path, gateway, limits=EdgeLimits(max_body_bytes=1000)) as http:
        within = await http.post("/v1/chat/completions", content=pieces(1000))
        beyond = await http.post("/v1/chat/completions", content=pieces(1001), headers={"x-request-id": "mine"})

    assert (within.status_code, gateway.num_asked) == (200, 1)
    check(beyond, 413, "invalid_request_error", "request_too_large", {})
    assert "1000 bytes" in beyond.json()["error"]["message"]
    assert beyond.headers["x-request-id"] == "mine"


async def pieces(num_bytes: int) -> AsyncIterator[bytes]:
    """A body that does not say how long it is."""
    for _ in range(num_bytes):
        yield b" "


async def test_more_requests_than_the_edge_takes_in_a_second(tmp_path: Path) -> None:
    async with edge(tmp_path, Gateway(WHOLE), limits=EdgeLimits(requests_per_second=1)) as http:
        first, second = await asyncio.gather(*(http.get("/v1/models", headers={"x-request-id": "me"}) for _ in "ab"))
        status = await grpc_status(http)

    refused = max(first, second, key=lambda answer: answer.status_code)
    assert {first.status_code, second.status_code} == {200, 429}
    check(refused, 429, "rate_limit_error", "rate_limit_exceeded", LATER)
    assert refused.headers["x-request-id"] == "me"
    assert status == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_LIMIT", 1)


async def test_metrics_are_nothing_for_clients(tmp_path: Path) -> None:
    async with edge(tmp_path, hang_up) as http:
        for path in ("/metrics", "/metrics?a=b", "/%6detrics", "/v1/../metrics"):
            check(await http.get(path), 404, "invalid_request_error", "unknown_url", {})


async def test_a_gateway_that_says_nothing(tmp_path: Path) -> None:
    async with edge(tmp_path, keep_silent, bounds={"stream_idle_timeout": 1}) as http:
        answer = await http.post("/v1/chat/completions", json={})

    check(answer, 504, "timeout", "deadline_exceeded", {})
    assert answer.headers["x-request-id"]


async def test_what_a_gateway_was_lost_with_another_one_answers(tmp_path: Path) -> None:
    dying, serving = Gateway(b""), Gateway(WHOLE)
    async with edge(tmp_path, dying, serving) as http:
        answers = [await http.post("/v1/chat/completions", json={"number": number}) for number in range(20)]

    assert [answer.text for answer in answers] == ["ok"] * 20
    assert dying.num_asked > 0 and serving.num_asked == 20


async def test_an_answer_that_has_begun_is_not_begun_again(tmp_path: Path) -> None:
    dying, serving = Gateway(WHOLE.replace(b"length: 2", b"length: 9")), Gateway(WHOLE)
    broken = 0
    async with edge(tmp_path, dying, serving) as http:
        for _ in range(20):
            try:
                assert (await http.post("/v1/chat/completions", json={})).text == "ok"
            except httpx.RemoteProtocolError:
                broken += 1

    assert broken == dying.num_asked > 0
    assert serving.num_asked == 20 - broken


async def test_headers_that_are_too_large(tmp_path: Path) -> None:
    async with edge(tmp_path) as http:
        answer = await http.get("/v1/models", headers={"x-long": "a" * 100_000})

    check(answer, 431, "invalid_request_error", None, {})


@pytest.mark.parametrize(
    "lines",
    [[b"nonsense"], [b"GET /health HTTP/1.1"], [b"GET /health HTTP/1.1", b"host: a", b"bad header"]],
    ids=["no HTTP", "no host", "no header"],
)
async def test_what_is_no_http(tmp_path: Path, lines: list[bytes]) -> None:
    async with edge(tmp_path) as http:
        reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
        writer.write(b"\r\n".join([*lines, b"", b""]))
        head = await reader.readuntil(b"\r\n\r\n")
        body = await asyncio.wait_for(reader.read(), 5)
        writer.close()

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in head
    assert b'"type":"invalid_request_error"' in body


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (NO_OTHERS, (grpc.StatusCode.UNAVAILABLE, "NOT_READY", 1)),
        (FULL, (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 1)),
        (OUT_OF_MEMORY, (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 1)),
    ],
    ids=["no gateway", "full", "out of memory"],
)
async def test_a_grpc_client_reads_a_status_with_details_and_no_json(
    tmp_path: Path, bounds: Mapping[str, int], expected: GrpcStatus
) -> None:
    async with edge(tmp_path, bounds=bounds) as http, asyncio.timeout(10):
        while (status := await grpc_status(http)) != expected:
            assert bounds is OUT_OF_MEMORY  # it looks at its memory once a second

    assert status == expected


async def test_a_grpc_client_is_told_of_a_gateway_that_was_lost_and_may_ask_at_once(tmp_path: Path) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(die, "127.0.0.1", 0) as gateway:
        port = gateway.sockets[0].getsockname()[1]
        async with edge(tmp_path, grpc_port=port) as http:
            assert await grpc_status(http) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_LOST", None)


async def grpc_status(http: httpx.AsyncClient) -> GrpcStatus:
    """How the edge answers a call: code, reason, and after how many seconds to ask again."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{http.base_url.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ChatServiceStub(channel).Generate(GenerateRequest()).read()
    error, trailers = caught.value, dict(caught.value.trailing_metadata())
    status = Status.FromString(cast("bytes", trailers["grpc-status-details-bin"]))
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info, retry = ErrorInfo(), RetryInfo()
    has_retry = any(detail.Unpack(retry) for detail in status.details)
    assert any(detail.Unpack(info) for detail in status.details)
    return error.code(), info.reason, retry.retry_delay.ToSeconds() if has_retry else None
