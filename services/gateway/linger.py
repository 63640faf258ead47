"""Decides that an answer which needs no more of a body ends only after the body: proxies cut off who still sends."""

import asyncio
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LONGEST_S: Final = 10.0  # that a client is listened to for nothing


class Linger:
    """ASGI layer around everything that answers. A refusal is sent at once; its end waits for the rest of the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_coming: bool | None = None  # the rest of the body; None: nobody has asked for any of it
        self._lingers = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_coming = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
        elif self._lingers and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._hear_out()
            message = {"type": "http.response.body"}
        await self._send(message)

    def _begin(self, start: Message) -> None:
        if self._is_coming is None:
            headers = Headers(scope=self._scope)
            announced = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
            self._is_coming = announced and "expect" not in headers  # a client that waits to be asked sends nothing
        if self._is_coming:
            self._lingers = True
            del MutableHeaders(scope=start)["content-length"]  # by which a proxy would know the end too early

    async def _hear_out(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_S):
                while self._is_coming:
                    await self.receive()
