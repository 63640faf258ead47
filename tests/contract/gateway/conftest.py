"""Joins a real gateway on a free port with a fake Triton, and gives tests its clients."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
import pytest_asyncio
import uvicorn
from opentelemetry.trace import Tracer

from services.gateway.app import create_app, join_upstream
from services.gateway.catalog import ServedModel
from services.gateway.grpc_api.server import GrpcFace
from services.gateway.metrics import Metrics
from services.gateway.settings import GatewaySettings
from services.gateway.tenancy.keys import Limits
from services.gateway.tenancy.store import Store
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.tenancy.windows import Windows
from services.gateway.upstream.admission import Admission
from services.gateway.upstream.triton import open_channel
from tests.fakes.triton import FakeTriton

MODELS = (
    ServedModel(id="zhinao-chat", kind="chat"),
    ServedModel(id="qihoo360/small", kind="chat"),
    ServedModel(id="zhinao-embed", kind="embed"),
    ServedModel(id="zhinao-rerank", kind="rerank"),
)
HALF_PAST_S = 1_000_000 * 60 + 30  # the clock of limits: thirty seconds of the minute are left
KEYED_CHAT = {"model": "zhinao-chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


@dataclass(frozen=True, slots=True)
class Mesh:
    """A gateway in front of a fake Triton."""

    triton: FakeTriton
    admission: Admission
    grpc_face: GrpcFace
    url: str
    grpc_port: int
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI
    channel: grpc.aio.Channel


class Keyed:
    """A mesh with keys; `key` makes one and returns the headers of a client that has it."""

    def __init__(self, mesh: Mesh, store: Store, tenancy: Tenancy) -> None:
        self.mesh, self.store, self.tenancy = mesh, store, tenancy

    def key(self, name: str = "a", tenant: str = "t", **limits: Any) -> dict[str, str]:
        _, secret = self.store.create_key(name, tenant, Limits(**limits))
        return {"authorization": f"Bearer {secret}"}

    async def chat(self, headers: dict[str, str], **changes: Any) -> Any:
        return await self.mesh.http.post("/v1/chat/completions", json={**KEYED_CHAT, **changes}, headers=headers)

    async def used(self, headers: dict[str, str]) -> tuple[int, int, int]:
        answer = (await self.mesh.http.get("/v1/usage", headers=headers)).json()
        (line,) = answer["data"]
        assert line["day"] == datetime.now(UTC).date().isoformat()
        return line["requests"], line["prompt_tokens"], line["completion_tokens"]


async def _at_once(_: float) -> None:
    """Ask the next worker without a pause."""


@asynccontextmanager
async def running_mesh(
    tenancy: Tenancy | None = None,
    tracer: Tracer | None = None,
    *,
    models: Sequence[ServedModel] = MODELS,
    cors_origins: Sequence[str] = (),
) -> AsyncIterator[Mesh]:
    """Start both faces of a gateway in front of a fake Triton; with a tenancy it asks for keys."""
    metrics = Metrics()
    async with FakeTriton.running() as triton, open_channel(triton.target) as upstream:
        settings = GatewaySettings(
            http_port=0,
            grpc_port=0,
            upstream=triton.target,
            models=tuple(models),
            max_body_bytes=100_000,
            request_timeout_s=30,
            cors_origins=tuple(cors_origins),
        )
        admission = join_upstream(upstream, metrics, pause=_at_once)
        app = create_app(settings, admission, metrics, tenancy, tracer)
        grpc_face = GrpcFace(app.state.gateway)
        grpc_port = await grpc_face.start()
        async with (
            serving(app) as url,
            httpx.AsyncClient(base_url=url, trust_env=False) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0) as client,
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
        ):
            yield Mesh(triton, admission, grpc_face, url, grpc_port, http, client, channel)
        await grpc_face.stop(0)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_mesh() -> AsyncIterator[Mesh]:
    async with running_mesh() as mesh:
        yield mesh


@pytest.fixture
def mesh(shared_mesh: Mesh) -> Mesh:
    """A mesh that remembers no earlier test; it lives in the session's loop."""
    shared_mesh.triton.reset()
    shared_mesh.admission._lines.clear()  # of those who were refused then
    shared_mesh.admission._pings._latest.clear()
    return shared_mesh


@pytest_asyncio.fixture
async def keyed(tmp_path: Path) -> AsyncIterator[Keyed]:
    """A mesh that asks for keys and has none yet."""
    store = Store.open(f"sqlite:///{tmp_path}/keys.sqlite3")
    tenancy = Tenancy(store, Windows(None, clock=lambda: HALF_PAST_S))
    async with running_mesh(tenancy) as mesh:
        yield Keyed(mesh, store, tenancy)
    await tenancy.close()


async def metrics_hold(mesh: Mesh, line: str) -> None:
    """Wait until that line is among the metrics."""
    async with asyncio.timeout(5):
        while line not in (await mesh.http.get("/metrics")).text.splitlines():
            pass


@asynccontextmanager
async def serving(app: object) -> AsyncIterator[str]:
    """Serve an ASGI app as the gateway process does, and yield its base URL."""
    config = uvicorn.Config(
        app, port=0, http="httptools", ws="none", lifespan="on", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    main = asyncio.create_task(server.main_loop())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await main
        await server.shutdown()
