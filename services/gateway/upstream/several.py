"""Decides how several generations that one client asked for at once are run and told as one stream."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from meshkit.errors import MeshError, Reason
from services.gateway.upstream.worker import Worker
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse

log = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 32  # of one client's requests: a worker that refuses one for want of room fails them all


def generate_all(
    worker: Worker, requests: Sequence[GenerateRequest], *, timeout_s: float
) -> AsyncGenerator[GenerateResponse, None]:
    """The answers to all requests, within the time of one; those of request i come n to a request from index i * n on.

    Raises the first MeshError, which names the request's place among several as that of its prompt.
    """
    if len(requests) == 1:
        return worker.generate(requests[0], timeout_s=timeout_s)
    return _Several(worker, timeout_s).generate(requests)


class _Several:
    def __init__(self, worker: Worker, timeout_s: float) -> None:
        self._worker = worker
        self._end_s = time.monotonic() + timeout_s
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        # One place, so that the worker feels a client who reads slowly. None: a request has ended.
        self._arrivals: asyncio.Queue[GenerateResponse | MeshError | None] = asyncio.Queue(maxsize=1)

    async def generate(self, requests: Sequence[GenerateRequest]) -> AsyncGenerator[GenerateResponse, None]:
        async with self._worker.together(requests):
            tasks = [asyncio.create_task(self._run(number, request)) for number, request in enumerate(requests)]
            try:
                async with aclosing(self._arrived(len(tasks))) as pieces:
                    async for piece in pieces:
                        yield piece
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _arrived(self, num_open: int) -> AsyncGenerator[GenerateResponse, None]:
        while num_open:
            match await self._arrivals.get():
                case None:
                    num_open -= 1
                case MeshError() as error:
                    raise error
                case piece:
                    yield piece

    async def _run(self, number: int, request: GenerateRequest) -> None:
        try:
            async with self._places:
                await self._pass_on(number, request)
            await self._arrivals.put(None)
        except MeshError as error:
            await self._arrivals.put(_placed(error, number))
        except Exception:  # boundary: who waits for an arrival would wait for ever
            log.exception("request %s failed", request.request_id)
            await self._arrivals.put(MeshError(Reason.INTERNAL, ""))

    async def _pass_on(self, number: int, request: GenerateRequest) -> None:
        left_s = max(self._end_s - time.monotonic(), 0)
        first_index = number * (request.n if request.HasField("n") else 1)
        async with aclosing(self._worker.generate(request, timeout_s=left_s)) as pieces:
            async for piece in pieces:
                piece.index += first_index
                await self._arrivals.put(piece)


def _placed(error: MeshError, number: int) -> MeshError:
    """The failure of one among several prompts."""
    place = f"prompt[{number}]"
    error.message = f"{place}: {error.message}"
    error.param = place if error.param == "prompt" else error.param
    return error
