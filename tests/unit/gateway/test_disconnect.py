"""The layer that watches for clients who leave, with a hand-made server."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshkit.errors import MeshError, Reason
from services.gateway.disconnect import CancelOnDisconnect

SCOPE: Scope = {"type": "http"}


class Client:
    """Sends a request of two parts, then leaves when told to, or when the answer is complete."""

    def __init__(self) -> None:
        self.parts: list[Message] = [
            {"type": "http.request", "body": b"a", "more_body": True},
            {"type": "http.request", "body": b"b"},
        ]
        self.gone = asyncio.Event()
        self.got: list[Message] = []

    async def receive(self) -> Message:
        if self.parts:
            return self.parts.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.got.append(message)
        if not message.get("more_body", True):
            self.gone.set()


def app(work: Callable[[], Awaitable[None]]) -> ASGIApp:
    """Reads the request, works, and answers."""

    async def serve(_: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await work()
        await send({"type": "http.response.body", "more_body": False})
        await asyncio.sleep(0)  # what a layer above may still have to do

    return serve


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    client = Client()
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    serving = asyncio.create_task(CancelOnDisconnect(app(work))(SCOPE, client.receive, client.send))
    await begun.wait()
    client.gone.set()

    with pytest.raises(MeshError) as caught:
        await serving
    assert caught.value.reason is Reason.CLIENT_CANCELLED
    assert client.got == []


async def test_an_answer_that_is_complete_is_not_cancelled_by_its_end() -> None:
    client = Client()

    async def work() -> None:
        await asyncio.sleep(0)

    await CancelOnDisconnect(app(work))(SCOPE, client.receive, client.send)

    assert len(client.got) == 1


async def test_a_cancellation_from_outside_stays_one() -> None:
    client = Client()
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    serving = asyncio.create_task(CancelOnDisconnect(app(work))(SCOPE, client.receive, client.send))
    await begun.wait()
    serving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await serving
