"""Every kind of failure, as a client of the gateway reads it, and as one behind an Envoy does: the same."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import grpc
import httpx
import pytest
import pytest_asyncio

from mesh.kubernetes import MESH
from mesh.plan import EdgeLimits
from meshkit.errors import MeshError, Reason
from meshkit.wire import encode_error
from services.gateway.tenancy.keys import Limits
from services.gateway.tenancy.store import Store
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.tenancy.windows import Windows
from tests.contract.gateway.conftest import Mesh, running_mesh
from tests.contract.gateway.refusals import CHAT, chat
from tests.fakes.dns import Names
from tests.fakes.triton import HELLO, ErrorText, Hold, Status, Step, Vanish
from tests.fixtures.envoy import running_envoy, running_envoy_of_kubernetes

pytestmark = pytest.mark.asyncio(loop_scope="session")

HALF_PAST_S = 1_000_000 * 60 + 30  # the clock of limits: thirty seconds of the minute are left
NEVER = {"x-should-retry": "false"}
INVALID = "invalid_request_error"


def later(seconds: int) -> dict[str, str]:
    """Headers that tell a client to come back after that time."""
    return {"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000), "x-should-retry": "true"}


def says(reason: Reason, param: str | None = None) -> ErrorText:
    """A worker's own refusal."""
    return ErrorText(encode_error(MeshError(reason, "limit 5, got 6", param=param)))


@dataclass(frozen=True, slots=True)
class Row:
    """A failure: how it comes about, and what is said of it. headers: those that say how to go on, all of them."""

    name: str
    status: int
    type: str
    code: str | None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    in_pieces: bool = False  # a body that does not say how long it is
    body: object = field(default_factory=chat)
    script: Sequence[Step] = HELLO
    path: str = CHAT
    method: str = "POST"
    sent: Mapping[str, str] = field(default_factory=dict[str, str])
    key: Mapping[str, Any] | None = None  # limits of the key that asks; None: a mesh without keys
    times: int = 1  # that it is asked; all but the last succeed


ROWS = (
    Row("malformed JSON", 400, INVALID, "invalid_json", body=b'{"messages": ['),
    Row("no JSON object", 400, INVALID, "invalid_type", body=[]),
    Row("wrong type", 400, INVALID, "invalid_type", "messages", body={"messages": "hi"}),
    Row("missing field", 400, INVALID, "missing_required_parameter", "messages", body={}),
    Row("value out of range", 400, INVALID, "invalid_value", "temperature", body=chat(temperature=3)),
    Row("not supported", 400, INVALID, "unsupported_parameter", "store", body=chat(store=True)),
    Row("strict", 400, INVALID, "unsupported_parameter", "user", body=chat(user="me", strict=True)),
    Row("prompt too long", 400, INVALID, "context_length_exceeded", "messages",
        script=[says(Reason.PROMPT_TOO_LONG, "messages")]),
    Row("no usage without keys", 400, INVALID, "unsupported_parameter", method="GET", path="/v1/usage"),
    Row("bad time", 400, INVALID, "invalid_value", "x-request-timeout", sent={"x-request-timeout": "soon"}),
    Row("unknown model", 404, INVALID, "model_not_found", "model", body=chat(model="gpt-9")),
    Row("model of another kind", 404, INVALID, "model_not_found", "model", body=chat(model="zhinao-embed")),
    Row("unknown model by path", 404, INVALID, "model_not_found", "model", method="GET", path="/v1/models/a/b"),
    Row("unknown route", 404, INVALID, "unknown_url", path="/v1/nothing"),
    Row("unknown route of GET", 404, INVALID, "unknown_url", method="GET", path="/nothing"),
    Row("no such asset", 404, INVALID, "unknown_url", method="GET", path="/docs/assets/nothing.js"),
    Row("wrong method", 405, INVALID, "method_not_allowed", method="GET", headers={"allow": "POST"}),
    Row("wrong method for reading", 405, INVALID, "method_not_allowed", method="DELETE", path="/v1/models",
        headers={"allow": "GET"}),
    Row("other vector space", 409, "conflict_error", None, "space", path="/v1/embeddings", body={"input": "a"},
        script=[says(Reason.SPACE_MISMATCH, "space")]),
    Row("body too large", 413, INVALID, "request_too_large", body=b" " * 100_001),
    Row("body far too large", 413, INVALID, "request_too_large", body=b" " * 10_000_000),
    Row("body too large, in pieces", 413, INVALID, "request_too_large", body=b" " * 100_001, in_pieces=True),
    Row("wrong content type", 415, INVALID, "unsupported_media_type", sent={"content-type": "text/plain"}),
    Row("queue full", 503, "overloaded_error", "server_overloaded", script=[says(Reason.QUEUE_FULL)],
        headers={**later(1), "retry-after": ANY, "retry-after-ms": ANY}),  # by the pace of the tests before
    Row("not ready", 503, "server_error", "not_ready", script=[says(Reason.NOT_READY)], headers=later(1)),
    Row("nobody there", 503, "server_error", "not_ready", headers=later(1),
        script=[Status(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")]),
    Row("worker lost", 502, "server_error", "upstream_unavailable", script=[Vanish()]),
    Row("too late", 504, "timeout", "deadline_exceeded", script=[Hold()], sent={"x-request-timeout": "0.05"},
        headers=NEVER),
    Row("bug of the worker", 500, "server_error", None, script=[ErrorText("Traceback: secret")]),
    Row("no key", 401, "authentication_error", "invalid_api_key", key={}, sent={"authorization": ""},
        headers={"www-authenticate": "Bearer"}),
    Row("unknown key", 401, "authentication_error", "invalid_api_key", key={}, sent={"authorization": "Bearer x"},
        headers={"www-authenticate": "Bearer"}),
    Row("no key and no route", 401, "authentication_error", "invalid_api_key", key={}, sent={"authorization": ""},
        path="/v1/nothing", headers={"www-authenticate": "Bearer"}),
    Row("model not for this key", 403, "permission_error", "model_not_allowed", "model", key={"models": ("other",)}),
    Row("a minute's limit", 429, "rate_limit_error", "rate_limit_exceeded", key={"requests_per_minute": 1}, times=2,
        headers=later(30)),
    Row("more than a minute's limit", 429, "rate_limit_error", "rate_limit_exceeded", key={"tokens_per_minute": 1},
        headers=NEVER),
    Row("a month's quota", 429, "rate_limit_error", "insufficient_quota", key={"tokens_per_month": 1}, headers=NEVER),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Faces:
    """A gateway, its keys if it asks for any, and the ways to it."""

    mesh: Mesh
    store: Store | None
    clients: Mapping[str, httpx.AsyncClient]


async def faces(folder: Path, store: Store | None) -> AsyncIterator[Faces]:
    tenancy = None if store is None else Tenancy(store, Windows(None, clock=lambda: HALF_PAST_S))
    async with running_mesh(tenancy) as mesh:
        ports = {"http_port": int(mesh.http.base_url.port or 0), "grpc_port": mesh.grpc_port}
        limits = EdgeLimits(max_body_bytes=100_000)  # as that gateway's
        named = replace(MESH, limits=limits, **{f"gateway_{name}": port for name, port in ports.items()})
        with Names({MESH.gateway: ["127.0.0.1"]}) as names:
            async with (
                running_envoy(folder, ports["http_port"], grpc_port=mesh.grpc_port, limits=limits) as edge_port,
                running_envoy_of_kubernetes(folder, named, names) as cluster,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{edge_port}", trust_env=False) as edge,
                httpx.AsyncClient(base_url=cluster.url, verify=cluster.trust, trust_env=False) as tls,
            ):
                yield Faces(mesh, store, {"gateway": mesh.http, "envoy": edge, "kubernetes": tls})
    if tenancy is not None:
        await tenancy.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def open_faces(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Faces]:
    async for each in faces(tmp_path_factory.mktemp("open"), None):
        yield each


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def keyed_faces(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Faces]:
    folder = tmp_path_factory.mktemp("keyed")
    async for each in faces(folder, Store.open(f"sqlite:///{folder}/keys.sqlite3")):
        yield each


@pytest.mark.parametrize("face", ["gateway", "envoy", "kubernetes"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_failure_is_told_in_one_shape_on_every_way(
    open_faces: Faces, keyed_faces: Faces, row: Row, face: str
) -> None:
    used = open_faces if row.key is None else keyed_faces
    used.mesh.triton.reset()
    used.mesh.triton.script = row.script

    answer = await ask(used, row, face)

    assert answer.status_code == row.status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == f"matrix-{face}"
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == (row.type, row.param, row.code)
    assert error["message"] and "secret" not in error["message"]
    going_on = {"allow", "retry-after", "retry-after-ms", "x-should-retry", "www-authenticate"}
    assert {name: value for name, value in answer.headers.items() if name in going_on} == dict(row.headers)


async def ask(used: Faces, row: Row, face: str) -> httpx.Response:
    headers = {"content-type": "application/json", "x-request-id": f"matrix-{face}"}
    if row.key is not None:
        assert used.store is not None
        _, secret = used.store.create_key(f"{row.name} {face}", "t", Limits(**row.key))
        headers["authorization"] = f"Bearer {secret}"
    sent = {name: value for name, value in {**headers, **row.sent}.items() if value}
    body = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()
    request = partial(used.clients[face].request, row.method, row.path, headers=sent)
    for _ in range(row.times - 1):
        assert (await request(content=body)).status_code == 200
    if row.method != "POST":
        return await request()
    return await request(content=pieces(body) if row.in_pieces else body)


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]
