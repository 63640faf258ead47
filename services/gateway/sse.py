"""Decides how a stream of chunks leaves as server-sent events: it ends exactly once, and is never silent for long."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import ClassVar, Final, Self, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.errors import error_body
from services.gateway.json_bytes import to_json_bytes

log = logging.getLogger(__name__)

KEEP_ALIVE_S: Final = 15.0
_KEEP_ALIVE: Final = b": keep-alive\n\n"
# Ends of lines to Unicode but not to this protocol; many clients (httpx's iter_lines) split there all the same.
_OTHER_ENDS: Final = {"\u0085": rb"\u0085", "\u2028": rb"\u2028", "\u2029": rb"\u2029"}


class EventStream(Response):
    """A streamed answer. Make it with `open`, so that the first chunk decides the HTTP status."""

    media_type = "text/event-stream"

    def __init__(self, first: Mapping[str, object], rest: AsyncGenerator[Mapping[str, object], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._last = first  # the latest chunk
        self._rest = rest

    @classmethod
    async def open(cls, chunks: AsyncGenerator[Mapping[str, object], None]) -> Self:
        """Wait for the first chunk; a MeshError before it is raised here."""
        return cls(await anext(chunks), chunks)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events; a failure becomes the last event, with no `[DONE]` after it."""
        pulse = _Pulse(send)
        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with pulse:
                await pulse.send(self.event(self._last))
                last = await self._send_rest(pulse)
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_rest(self, pulse: "_Pulse") -> bytes:
        try:
            async for chunk in self._rest:
                self._last = chunk
                await pulse.send(self.event(chunk))
        except MeshError as error:
            return self.failure(error)
        except Exception:  # boundary: a stream that only stops looks like an answer
            log.exception("request %s failed", CURRENT.get().request_id)
            return self.failure(MeshError(Reason.INTERNAL, ""))
        return self.end

    # What a form of streams decides.

    end: ClassVar[bytes] = b"data: [DONE]\n\n"

    def event(self, chunk: Mapping[str, object]) -> bytes:
        """One chunk."""
        data = to_json_bytes(chunk)
        for end, escaped in _OTHER_ENDS.items():
            data = data.replace(end.encode(), escaped)
        return b"data: " + data + b"\n\n"

    def failure(self, error: MeshError) -> bytes:
        """What ends the stream in place of `end`."""
        return self.event(error_body(error))


class NamedEventStream(EventStream):
    """In the form of the Responses API: events have their type for a name and are numbered, and the last ends it."""

    end = b""

    @override
    def event(self, chunk: Mapping[str, object]) -> bytes:
        """See EventStream.event."""
        return f"event: {chunk['type']}\n".encode() + super().event(chunk)

    @override
    def failure(self, error: MeshError) -> bytes:
        """An event of the type error, which also holds what other streams end with: clients look for either."""
        body = error_body(error)
        number = cast("int", self._last["sequence_number"]) + 1
        return self.event({**body["error"], "type": "error", "sequence_number": number, **body})


class _Pulse:
    """Sends bytes, and a comment whenever nothing was sent for a while."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._clock = asyncio.get_running_loop().time
        self._last_s = self._clock()
        self._beat: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._beat = asyncio.create_task(self._keep_alive())

    async def __aexit__(self, *_: object) -> None:
        assert self._beat is not None
        self._beat.cancel()

    async def send(self, body: bytes) -> None:
        self._last_s = self._clock()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _keep_alive(self) -> None:
        while True:
            due_s = self._last_s + KEEP_ALIVE_S
            await asyncio.sleep(due_s - self._clock())
            if self._clock() >= self._last_s + KEEP_ALIVE_S:
                await self.send(_KEEP_ALIVE)
