"""Decides that work for a client who left is cancelled at once; knows nothing of what the work is."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshkit.errors import MeshError, Reason


class CancelOnDisconnect:
    """ASGI layer that watches the client from the end of its request to the end of the answer.

    Servers tell of a client that left only to those who ask; a handler that waits for a worker does not.
    Raises MeshError CLIENT_CANCELLED in place of the cancellation.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request in this task, and cancel the task when the client leaves."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch = _Watch(receive, send)
        try:
            await self._app(scope, watch.receive, watch.send)
        except asyncio.CancelledError:
            if not watch.client_left:
                raise
            raise MeshError(Reason.CLIENT_CANCELLED, "the client left") from None
        finally:
            watch.stop()


class _Watch:
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._serving = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self.client_left = False

    async def receive(self) -> Message:
        message = await self._receive()
        if self._watching is None and message["type"] == "http.request" and not message.get("more_body"):
            self._watching = asyncio.create_task(self._wait_for_disconnect())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.stop()  # a server also says "disconnect" once the answer is complete
        await self._send(message)

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        assert self._serving is not None
        self.client_left = True
        self._serving.cancel()
