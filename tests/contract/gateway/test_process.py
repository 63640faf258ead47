"""The gateway as a process: what it loads, how it starts, and how it stops."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from services.gateway.tenancy.keys import Limits
from services.gateway.tenancy.store import Store
from services.gateway.tenancy.uses import Use
from tests.fakes.triton import FakeTriton, Hold, last, piece
from tests.fixtures.servers import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


async def start(http_port: int, upstream: str, **settings: str) -> asyncio.subprocess.Process:
    env = {
        **os.environ,
        "GATEWAY_HTTP_PORT": str(http_port),
        "GATEWAY_GRPC_PORT": "0",
        "GATEWAY_UPSTREAM": upstream,
        "GATEWAY_MODELS": '[{"id": "zhinao-chat", "kind": "chat"}]',
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway", env=env, stderr=subprocess.PIPE
    )


async def ready(http: httpx.AsyncClient) -> httpx.Response:
    async with asyncio.timeout(30):
        while True:
            try:
                return await http.get("/ready")
            except httpx.ConnectError:
                await asyncio.sleep(0.05)  # another process; there is nothing to wait on


async def leaving(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):
        while (await http.get("/serving")).status_code != 503:
            pass


async def test_sigterm_fails_readiness_lets_streams_end_and_exits_with_zero() -> None:
    port = free_port()
    async with (
        FakeTriton.running() as triton,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        hold = Hold()
        triton.script = [piece("a"), hold, last("b")]
        process = await start(port, triton.target)
        before = await ready(http)

        async with http.stream("POST", CHAT, json=BODY) as answer:
            await triton.holding.wait()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while (await ready(http)).status_code != 503:
                    pass
            hold.release.set()
            lines = [line async for line in answer.aiter_lines()]
        _, stderr = await process.communicate()

    assert before.status_code == 200
    assert "data: [DONE]" in lines
    assert process.returncode == 0, stderr.decode()
    assert b"Traceback" not in stderr


@pytest.mark.parametrize("asks_for_keys", [False, True])
async def test_a_start_without_keys_says_loudly_whom_it_serves(tmp_path: Path, *, asks_for_keys: bool) -> None:
    port = free_port()
    settings = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/keys.sqlite3"} if asks_for_keys else {}
    async with (
        FakeTriton.running() as triton,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        process = await start(port, triton.target, **settings)
        await ready(http)
        process.send_signal(signal.SIGTERM)
        _, stderr = await process.communicate()

    warning = f"NO KEYS: whoever reaches 127.0.0.1:{port} is served"
    assert (warning in stderr.decode()) is not asks_for_keys


async def test_what_was_used_until_sigterm_is_in_the_table(tmp_path: Path) -> None:
    """The last request ends while the process is leaving already."""
    url, port = f"sqlite:///{tmp_path}/keys.sqlite3", free_port()
    store = Store.open(url)
    key, secret = store.create_key("a", "t", Limits())
    async with (
        FakeTriton.running() as triton,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        process = await start(port, triton.target, GATEWAY_DATABASE_URL=url)
        await ready(http)
        headers = {"authorization": f"Bearer {secret}"}
        whole = await http.post(CHAT, json={**BODY, "stream": False}, headers=headers)
        hold = Hold()
        triton.script = [piece("a"), hold, last("b", prompt_tokens=7, completion_tokens=4)]
        async with http.stream("POST", CHAT, json=BODY, headers=headers) as answer:
            await triton.holding.wait()
            process.send_signal(signal.SIGTERM)
            hold.release.set()
            await answer.aread()
        _, stderr = await process.communicate()

    today = datetime.now(UTC).date()
    used = store.use(today, today, key.id)
    store.close()
    assert (whole.status_code, process.returncode) == (200, 0), stderr.decode()
    assert list(used.values()) == [Use(requests=2, prompt_tokens=12, completion_tokens=7)]


@pytest.mark.parametrize(("patience_s", "num_signals"), [("0.1", 1), ("60", 2)], ids=["in time", "when told again"])
async def test_a_stream_that_does_not_end_is_cut_off(patience_s: str, num_signals: int) -> None:
    port = free_port()
    async with (
        FakeTriton.running() as triton,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        triton.script = [piece("a"), Hold()]
        process = await start(port, triton.target, GATEWAY_DRAIN_TIMEOUT_S=patience_s)
        await ready(http)

        async with http.stream("POST", CHAT, json=BODY) as answer:
            await triton.holding.wait()
            process.send_signal(signal.SIGTERM)
            if num_signals > 1:
                await leaving(http)
                process.send_signal(signal.SIGTERM)
            lines = [line async for line in answer.aiter_lines() if line]
        async with asyncio.timeout(20):
            await process.communicate()

    assert '"not_ready"' in lines[-1]
    assert process.returncode == 0


async def test_bad_settings_stop_the_start_with_their_names() -> None:
    process = await start(0, "no-port", GATEWAY_MODELS='[{"id": "a", "kind": "chat"}, {"id": "b", "kind": "x"}]')

    _, stderr = await process.communicate()

    assert process.returncode == 1
    assert [line.split(":")[0] for line in stderr.decode().splitlines()] == [
        "GATEWAY_UPSTREAM",
        "GATEWAY_MODELS_1_KIND",
    ]


@pytest.mark.parametrize("name", ["GATEWAY_HTTP_PORT", "GATEWAY_GRPC_PORT"])
async def test_a_taken_port_stops_the_start(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = await start(0, "127.0.0.1:1", **{name: port})

        _, stderr = await process.communicate()

    assert process.returncode != 0
    assert port in stderr.decode()


async def test_the_gateway_loads_no_tensor_library() -> None:
    code = "import sys, services.gateway.__main__; print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)

    loaded = (await process.communicate())[0].decode().split()

    assert "services.gateway.app" in loaded
    assert {"torch", "transformers", "modelkit"}.isdisjoint(loaded)
