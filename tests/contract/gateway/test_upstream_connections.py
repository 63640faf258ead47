"""The gateway's connections to Envoys: spread over all of them, and given up when nothing comes over one."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc
import pytest

from meshkit.errors import MeshError, Reason
from services.gateway.upstream import triton
from services.gateway.upstream.triton import TritonWorker, open_channel
from tests.fakes.triton import FakeTriton, Hold, last, piece
from tests.fixtures.tcp_way import TcpWay, tcp_way
from zhinao.chat.v1.chat_pb2 import GenerateRequest

pytestmark = pytest.mark.asyncio(loop_scope="session")

REQUEST: Final = GenerateRequest(model="zhinao-chat")
PATIENCE: Final = {"grpc.keepalive_time_ms", "grpc.http2.ping_timeout_ms"}
HASTE: Final = 10  # how many times as fast as in real life a silent connection is given up here


async def generate(channel: grpc.aio.Channel) -> list[str]:
    return [piece.text async for piece in TritonWorker(channel).generate(REQUEST, timeout_s=30)]


@asynccontextmanager
async def connected(
    fake: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[TcpWay, grpc.aio.Channel]]:
    """A channel that has been answered once, over a way that a test can stop."""
    hasty = [
        (name, value // HASTE if name in PATIENCE and isinstance(value, int) else value)
        for name, value in triton._CHANNEL_OPTIONS
    ]
    monkeypatch.setattr(triton, "_CHANNEL_OPTIONS", hasty)
    async with tcp_way(int(fake.target.rpartition(":")[2])) as way, open_channel(f"127.0.0.1:{way.port}") as channel:
        assert await generate(channel)
        yield way, channel


async def test_an_envoy_that_is_gone_without_a_word_is_lost_long_before_a_calls_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeTriton.running() as fake, connected(fake, monkeypatch) as (way, channel):
        way.flows.clear()
        began_s = time.monotonic()

        with pytest.raises(MeshError) as caught:
            await generate(channel)

    assert caught.value.reason is Reason.UPSTREAM_LOST
    assert time.monotonic() - began_s < 10


async def test_an_answer_that_has_begun_is_lost_with_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeTriton.running() as fake, connected(fake, monkeypatch) as (way, channel):
        fake.script = [piece("a"), Hold()]
        answer = TritonWorker(channel).generate(REQUEST, timeout_s=30)
        await anext(answer)
        way.flows.clear()

        async with asyncio.timeout(10):
            with pytest.raises(MeshError) as caught:
                await anext(answer)

    assert caught.value.reason is Reason.UPSTREAM_LOST


async def test_one_that_is_only_slow_for_a_while_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeTriton.running() as fake, connected(fake, monkeypatch) as (way, channel):
        hold = Hold()
        fake.script = [piece("a"), hold, last("b")]
        answer = TritonWorker(channel).generate(REQUEST, timeout_s=30)
        await anext(answer)
        way.flows.clear()
        hold.release.set()
        await asyncio.sleep(15 / HASTE)  # a ping is asked after 10 s, and has 20

        way.flows.set()

        assert [piece.text async for piece in answer] == ["b"]


async def test_calls_go_to_every_envoy_that_the_name_stands_for() -> None:
    async with FakeTriton.running() as fake, FakeTriton.running() as other:
        both = f"ipv4:{fake.target},{other.target}"
        async with open_channel(both) as channel:
            for _ in range(20):
                await generate(channel)

    assert len(fake.received) > 0
    assert len(other.received) > 0
