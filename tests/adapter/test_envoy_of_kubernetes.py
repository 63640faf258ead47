"""The real Envoy with Kubernetes' configuration: it finds parts by name, speaks TLS, and writes spans."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.envoy import Collector
from mesh.kubernetes import COLLECTOR, MESH
from meshkit.wire import MODEL_HEADER
from tests.fakes.dns import Names
from tests.fakes.otlp_sink import OtlpSink
from tests.fixtures.envoy import EnvoyOfKubernetes, running_envoy_of_kubernetes
from tests.fixtures.servers import free_port

POD, OTHER_POD = "127.0.0.2", "127.0.0.3"
WORKER: Final = "embed-worker"
TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
HTTP_PORT, GRPC_PORT, WORKER_PORT = (free_port() for _ in range(3))
HEALTH: Final = health_pb2.HealthCheckRequest()


async def serve_http(address: str, stack: AsyncExitStack) -> None:
    """A gateway in a pod, which answers with its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(address)}\r\n\r\n{address}".encode())
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(answer, address, HTTP_PORT)
    stack.callback(server.close)


async def serve_grpc(address: str, port: int, stack: AsyncExitStack) -> None:
    """A gateway or a worker in a pod, healthy; what is asked of a model it answers with its address."""

    async def infer(_request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return address.encode()

    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server = grpc.aio.server(handlers=[handler], options=[("grpc.so_reuseport", 0)])
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(f"{address}:{port}")
    await server.start()
    stack.push_async_callback(server.stop, None)


@pytest_asyncio.fixture
async def pods() -> AsyncIterator[None]:
    """Two of every part."""
    async with AsyncExitStack() as stack:
        for address in (POD, OTHER_POD):
            await serve_http(address, stack)
            await serve_grpc(address, GRPC_PORT, stack)
            await serve_grpc(address, WORKER_PORT, stack)
        yield


@asynccontextmanager
async def running(
    folder: Path, known: dict[str, list[str]], collector: Collector | None = None
) -> AsyncIterator[tuple[EnvoyOfKubernetes, Names]]:
    ports = {"gateway_http_port": HTTP_PORT, "gateway_grpc_port": GRPC_PORT, "worker_port": WORKER_PORT}
    with Names(known) as names:
        async with running_envoy_of_kubernetes(folder, replace(MESH, **ports, collector=collector), names) as envoy:
            yield envoy, names


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():
            pass


@pytest.mark.usefixtures("pods")
async def test_workers_come_and_go_by_name_and_no_call_fails(tmp_path: Path) -> None:
    async with (
        running(tmp_path, {WORKER: [POD]}) as (envoy, names),
        grpc.aio.insecure_channel(f"127.0.0.1:{envoy.mesh.internal_port}") as channel,
    ):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def asked(model: str = "zhinao-embed") -> str:
            return (await infer(b"", metadata=[(MODEL_HEADER, model)], timeout=10)).decode()

        async def seen() -> set[str]:
            return {await asked() for _ in range(8)}

        async def seen_as(addresses: set[str]) -> bool:
            return await seen() == addresses

        assert await seen() == {POD}
        names.known[WORKER] = [POD, OTHER_POD]
        await until(lambda: seen_as({POD, OTHER_POD}))
        names.known[WORKER] = [OTHER_POD]
        await until(lambda: seen_as({OTHER_POD}))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked("zhinao-rerank")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "no healthy upstream")


@pytest.mark.usefixtures("pods")
async def test_new_gateways_share_the_work(tmp_path: Path) -> None:
    async with (
        running(tmp_path, {MESH.gateway: [POD]}) as (envoy, names),
        httpx.AsyncClient(base_url=envoy.url, verify=envoy.trust, trust_env=False) as http,
    ):

        async def seen() -> set[str]:
            return {(await http.get("/")).text for _ in range(8)}

        async def both() -> bool:
            return await seen() == {POD, OTHER_POD}

        assert await seen() == {POD}
        names.known[MESH.gateway] = [POD, OTHER_POD]
        await until(both)


@pytest.mark.usefixtures("pods")
async def test_rest_and_grpc_are_served_on_one_port_over_tls_and_not_without(tmp_path: Path) -> None:
    async with running(tmp_path, {MESH.gateway: [POD]}) as (envoy, _):
        async with httpx.AsyncClient(verify=envoy.trust, http2=False, trust_env=False) as http:
            assert (await http.get(f"{envoy.url}/v1/models")).status_code == 200
            with pytest.raises(httpx.TransportError):
                await http.get(envoy.url.replace("https", "http"))
        async with httpx.AsyncClient(trust_env=False) as stranger:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await stranger.get(envoy.url)
        credentials = grpc.ssl_channel_credentials(envoy.trusted.read_bytes())
        async with grpc.aio.secure_channel(urlsplit(envoy.url).netloc, credentials) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(HEALTH, timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_without_a_gateway_rest_and_grpc_are_told_to_come_again(tmp_path: Path) -> None:
    async with running(tmp_path, {}) as (envoy, _):
        async with httpx.AsyncClient(verify=envoy.trust, trust_env=False) as http:
            answer = await http.get(f"{envoy.url}/v1/models", headers={"x-request-id": "mine"})
        credentials = grpc.ssl_channel_credentials(envoy.trusted.read_bytes())
        async with grpc.aio.secure_channel(urlsplit(envoy.url).netloc, credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health_pb2_grpc.HealthStub(channel).Check(HEALTH, timeout=10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert (answer.headers["x-request-id"], answer.headers["retry-after"]) == ("mine", "1")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.usefixtures("pods")
async def test_a_request_leaves_a_span_at_the_collector_and_its_trace_in_the_log(tmp_path: Path) -> None:
    host = urlsplit(COLLECTOR).hostname or ""
    with OtlpSink().serve() as sink:
        collector = Collector.at(COLLECTOR.replace("4318", sink.url.rpartition(":")[2]))
        known = {MESH.gateway: [POD], host.partition(".")[0]: ["127.0.0.1"]}
        async with running(tmp_path, known, collector) as (envoy, _):
            headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01", "x-request-id": "mine"}
            async with httpx.AsyncClient(verify=envoy.trust, trust_env=False) as http:
                assert (await http.get(f"{envoy.url}/v1/models", headers=headers)).status_code == 200
            tree = await asyncio.to_thread(sink.tree, TRACE_ID, "b7ad6b7169203331", set())
    ((service, _),) = tree.spans.values()
    assert service == "envoy"
    logged = [json.loads(line) for line in envoy.log.read_text().splitlines() if line.startswith("{")]
    assert [(line["request_id"], line["trace_id"]) for line in logged if line["path"] == "/v1/models"] == [
        ("mine", TRACE_ID)
    ]
