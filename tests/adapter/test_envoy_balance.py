"""To which worker the real Envoy, with the mesh's own configuration, gives a call: by key, by load, by failures."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import grpc
import pytest_asyncio
from typing_extensions import override

from meshkit.wire import AFFINITY_HEADER, MODEL_HEADER
from tests.adapter.test_envoy_retries import Context, Edge, Worker

KEYS: Final = [f"key-{number}" for number in range(30)]


class Holding(Worker):
    """It answers at once, or while it is told to hold, when it is told to go on. keys: of all calls."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.OK)
        self.keys: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @override
    async def answer(self, _request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        self.keys.append(str(dict(context.invocation_metadata() or ())[AFFINITY_HEADER]))
        await self.may_answer.wait()
        yield b"frame"


Start = Callable[..., Awaitable[Edge]]


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts an Envoy in front of these workers."""
    async with AsyncExitStack() as stack:

        async def start(*workers: Worker) -> Edge:
            return await Edge(tmp_path).start([await worker.serve(stack) for worker in workers], stack, {})

        yield start


async def ask(edge: Edge, key: str) -> None:
    async for _ in edge.infer(b"", metadata=[(MODEL_HEADER, "a"), (AFFINITY_HEADER, key)], timeout=20):
        pass


async def test_a_key_meets_the_same_worker_and_keys_are_spread(start: Start) -> None:
    workers = [Holding() for _ in range(3)]
    edge = await start(*workers)

    for key in KEYS * 3:
        await ask(edge, key)

    met = [set(worker.keys) for worker in workers]
    assert all(met) and sum(map(len, met)) == len(KEYS)


async def test_a_key_asked_more_than_a_worker_should_bear_meets_another_one(start: Start) -> None:
    workers = [Holding() for _ in range(3)]
    edge = await start(*workers)
    for key in KEYS:  # Envoy counts no load of a worker to which it has no connection yet
        await ask(edge, key)
    for worker in workers:
        worker.may_answer.clear()

    async with asyncio.timeout(20), asyncio.TaskGroup() as calls:
        for _ in range(30):
            calls.create_task(ask(edge, "one"))
        while sum(worker.keys.count("one") for worker in workers) < 30:
            await edge.stat("upstream_rq_active")  # takes a moment
        for worker in workers:
            worker.may_answer.set()

    nums = sorted(worker.keys.count("one") for worker in workers)
    assert nums[-1] <= 16  # half as many again as each would have of 30, and one


async def test_a_worker_that_fails_gets_no_calls_for_a_while_and_then_again(start: Start) -> None:
    failing, serving = Worker(grpc.StatusCode.UNAVAILABLE), Worker(grpc.StatusCode.OK, 1)
    edge = await start(failing, serving)

    async with asyncio.timeout(20):
        while not await edge.stat("outlier_detection.ejections_active"):
            assert await edge.ask() == "OK"
        num_calls = failing.num_calls
        assert num_calls >= 3
        while await edge.stat("outlier_detection.ejections_active"):
            assert await edge.ask() == "OK"
        assert failing.num_calls == num_calls
        failing.code = grpc.StatusCode.OK
        while failing.num_calls == num_calls:
            assert await edge.ask() == "OK"
