"""Envoys of Kubernetes that come and go between gateways and workers which are busy all the time."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import pytest
import pytest_asyncio
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh import envoy
from mesh.kubernetes import MANIFESTS, MESH
from meshkit.wire import MODEL_HEADER
from services.gateway.upstream.triton import open_channel
from tests.fakes.dns import Names
from tests.fixtures.envoy import EnvoyOfKubernetes, running_envoy_of_kubernetes
from tests.fixtures.tcp_way import tcp_way

POD: Final = "127.0.0.2"
COMMAND: Final = yaml.safe_load((MANIFESTS / "base/envoy/deployment.yaml").read_text())["spec"]["template"]["spec"][
    "containers"
][0]["command"]
DRAIN_WORDS: Final = COMMAND[COMMAND.index("--drain-time-s") : COMMAND.index("-l")]
NUM_CALLERS: Final = 4
RENDER: Final = envoy.render_named


@pytest_asyncio.fixture
async def worker_port() -> AsyncIterator[int]:
    """Of a worker in a pod, which takes as many seconds for an answer as it is asked to, or a moment."""

    async def infer(request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        await asyncio.sleep(float(request or b"0.3"))
        return request

    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server = grpc.aio.server(handlers=[grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)])
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port(f"{POD}:0")
    await server.start()
    yield port
    await server.stop(None)


@asynccontextmanager
async def envoy_pod(folder: Path, names: Names, worker_port: int) -> AsyncIterator[EnvoyOfKubernetes]:
    mesh = replace(MESH, worker_port=worker_port)
    async with running_envoy_of_kubernetes(folder, mesh, names, *DRAIN_WORDS) as envoy:
        yield envoy


async def drain(envoy: EnvoyOfKubernetes, folder: Path) -> int | None:
    """Run its preStop command, without the pause at its beginning."""
    text = (MANIFESTS / "base/envoy/drain.sh").read_text()
    script = folder / "drain.sh"
    script.write_text(text.replace(str(MESH.admin_port), str(envoy.mesh.admin_port)).replace("sleep 10", "sleep 0"))
    process = await asyncio.create_subprocess_exec("bash", script)
    try:
        async with asyncio.timeout(20):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()


@asynccontextmanager
async def asking(target: str) -> AsyncIterator[Callable[[], int]]:
    """Clients that ask without a pause over a gateway's one channel; yields how many were answered. Each has to be."""
    over, answers = asyncio.Event(), itertools.count()
    num_answered = 0

    async def ask(channel: grpc.aio.Channel) -> None:
        nonlocal num_answered
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        while not over.is_set():
            await infer(b"", metadata=[(MODEL_HEADER, "zhinao-embed")], timeout=20)
            num_answered = next(answers) + 1

    async with open_channel(target) as channel, asyncio.TaskGroup() as clients:
        for _ in range(NUM_CALLERS):
            clients.create_task(ask(channel))
            await asyncio.sleep(0.3 / NUM_CALLERS)  # so that at no time nothing is asked
        yield lambda: num_answered
        over.set()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.05)  # calls of others; there is nothing to wait on


async def test_a_drain_ends_though_a_gateway_never_stops_asking_and_no_call_is_lost(
    tmp_path: Path, worker_port: int
) -> None:
    with Names({"embed-worker": [POD]}) as names:
        async with (
            envoy_pod(tmp_path, names, worker_port) as leaving,
            envoy_pod(tmp_path, names, worker_port) as staying,
            tcp_way(leaving.mesh.internal_port) as way,
            asking(f"127.0.0.1:{way.port}") as num_answered,
        ):
            await until(lambda: num_answered() > NUM_CALLERS)
            way.to = staying.mesh.internal_port  # what DNS does in the pause at the drain's beginning

            assert await drain(leaving, tmp_path) == 0

            before = num_answered()
            await until(lambda: num_answered() > before + NUM_CALLERS)


async def test_an_answer_outlives_the_connection_that_a_gateway_is_to_leave(
    tmp_path: Path, worker_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "max_connection_duration: 60s" in RENDER(MESH)
    monkeypatch.setattr(envoy, "render_named", lambda mesh: RENDER(mesh).replace("duration: 60s", "duration: 1s"))
    with Names({"embed-worker": [POD]}) as names:
        async with (
            envoy_pod(tmp_path, names, worker_port) as only,
            open_channel(f"127.0.0.1:{only.mesh.internal_port}") as channel,
        ):
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            metadata = [(MODEL_HEADER, "zhinao-embed")]
            longer_than_a_drain = infer(b"8", metadata=metadata, timeout=20)
            while not longer_than_a_drain.done():
                await infer(b"", metadata=metadata, timeout=20)

            assert await longer_than_a_drain == b"8"
            async with httpx.AsyncClient() as client:
                stats = await client.get(
                    f"http://127.0.0.1:{only.mesh.admin_port}/stats?filter=http.internal.downstream_cx"
                )
    assert int(stats.text.partition("http.internal.downstream_cx_max_duration_reached: ")[2].split()[0]) > 1
