"""What the real Envoy, with the mesh's own configuration, tries again."""

import asyncio
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh import envoy
from mesh.envoy import EnvoyConfig, ModelRoute
from meshkit.errors import Reason
from meshkit.wire import MODEL_HEADER
from services.gateway.upstream import failures
from tests.fixtures.envoy import with_bounds
from tests.fixtures.servers import free_port

CLUSTER: Final = "chat-a"
NO_OTHERS: Final[Mapping[str, int]] = MappingProxyType({})
METADATA: Final = [(MODEL_HEADER, "a")]

Context = grpc.aio.ServicerContext[Any, Any]


class Worker:
    """What Envoy takes for a healthy Triton. num_frames: how many it sends before it says `code`."""

    def __init__(self, code: grpc.StatusCode, num_frames: int = 0) -> None:
        self.code = code
        self.num_frames = num_frames
        self.num_calls = 0

    async def answer(self, _request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        self.num_calls += 1
        for _ in range(self.num_frames):
            yield b"frame"
        if self.code is not grpc.StatusCode.OK:
            await context.abort(self.code)

    async def serve(self, stack: AsyncExitStack) -> int:
        """Listen until the stack is unwound; returns the port."""
        methods = {"ModelStreamInfer": grpc.unary_stream_rpc_method_handler(self.answer)}
        handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
        server = grpc.aio.server(handlers=[handler], options=[("grpc.so_reuseport", 0)])
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        return port


class Edge:
    """An Envoy in front of the workers of one model."""

    def __init__(self, folder: Path) -> None:
        self._route = ModelRoute("a", CLUSTER, folder / "a.json", has_prefix_cache=True)
        self._ports = [free_port() for _ in range(3)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._ports[1]}")
        self.infer = self._channel.unary_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        self._folder = folder

    async def start(self, workers: list[int], stack: AsyncExitStack, bounds: Mapping[str, int]) -> Self:
        """Return once every worker is healthy to it. bounds: see with_bounds."""
        envoy.write_endpoints(self._route, workers)
        self._run(stack, bounds)
        stack.push_async_callback(self._channel.close)
        async with asyncio.timeout(20):
            while await self.stat("membership_healthy") != len(workers):
                pass
        return self

    def _run(self, stack: AsyncExitStack, bounds: Mapping[str, int]) -> None:
        config, folder = self._folder / "envoy.yaml", self._folder
        text = envoy.render(EnvoyConfig("127.0.0.1", *self._ports, [1], [1], [self._route], folder))
        config.write_text(with_bounds(text, bounds))
        process = subprocess.Popen(envoy.command(config), stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)

    async def ask(self) -> str:
        """How a call ended."""
        error = await self.failure()
        return "OK" if error is None else error.code().name

    async def failure(self) -> grpc.aio.AioRpcError | None:
        """With what a call ended, if not well."""
        try:
            async for _ in self.infer(b"", metadata=METADATA, timeout=10):
                pass
        except grpc.aio.AioRpcError as error:
            return error
        return None

    async def stat(self, name: str) -> int:
        """A number of the workers' cluster."""
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                page = await client.get(f"http://127.0.0.1:{self._ports[2]}/stats?filter=cluster.{CLUSTER}.{name}$")
            except httpx.TransportError:
                return -1  # not listening yet
        return int(page.text.rpartition(" ")[2] or -1)


Start = Callable[..., Awaitable[Edge]]


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts an Envoy in front of these workers."""
    async with AsyncExitStack() as stack:

        async def start(*workers: Worker, bounds: Mapping[str, int] = NO_OTHERS) -> Edge:
            return await Edge(tmp_path).start([await worker.serve(stack) for worker in workers], stack, bounds)

        yield start


async def test_a_worker_that_takes_nothing_is_replaced_by_another_one(start: Start) -> None:
    leaving, serving = Worker(grpc.StatusCode.NOT_FOUND), Worker(grpc.StatusCode.OK, 2)
    edge = await start(leaving, serving)

    assert {await edge.ask() for _ in range(30)} == {"OK"}

    assert serving.num_calls == 30
    assert leaving.num_calls == await edge.stat("upstream_rq_retry_success") > 0


async def test_an_outage_is_not_made_worse_by_retries(start: Start) -> None:
    dead = Worker(grpc.StatusCode.UNAVAILABLE)
    edge = await start(dead)

    assert await edge.ask() == "UNAVAILABLE"
    assert dead.num_calls == 2
    dead.num_calls = 0
    assert set(await asyncio.gather(*(edge.ask() for _ in range(200)))) == {"UNAVAILABLE"}

    assert 200 < dead.num_calls <= 200 * 1.2 + 3
    assert await edge.stat("upstream_rq_retry_overflow") >= 160 - 3


async def test_an_answer_that_has_begun_is_not_begun_again(start: Start) -> None:
    dying = Worker(grpc.StatusCode.UNAVAILABLE, num_frames=1)
    edge = await start(dying)

    assert await edge.ask() == "UNAVAILABLE"

    assert dying.num_calls == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_what_a_worker_refuses_is_not_asked_again(start: Start, code: grpc.StatusCode) -> None:
    refusing = Worker(code)
    edge = await start(refusing)

    assert await edge.ask() == code.name

    assert refusing.num_calls == 1


@pytest.mark.parametrize("bounds", [{"max_requests": 0}, {"max_heap_size_bytes": 1}], ids=["full", "out of memory"])
async def test_envoys_own_bounds_are_no_room_to_a_gateway(start: Start, bounds: Mapping[str, int]) -> None:
    edge = await start(Worker(grpc.StatusCode.OK), bounds=bounds)

    async with asyncio.timeout(10):
        while (error := await edge.failure()) is None:
            pass  # it looks at its memory once a second

    assert failures.from_status(error, model="a").reason is Reason.QUEUE_FULL
