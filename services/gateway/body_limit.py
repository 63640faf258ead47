"""Decides how large a request's body may be, and refuses a larger one without reading it to its end."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshkit.errors import MeshError, Reason


class BodyLimit:
    """ASGI layer around everything that reads bodies. FastAPI's own limit answers in plain text."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises MeshError TOO_LARGE for a body that announces too much."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = int(Headers(scope=scope).get("content-length", "0"))
        if announced > self._max_bytes:
            message = f"the body is {announced} bytes, the limit is {self._max_bytes}"
            raise MeshError(Reason.TOO_LARGE, message)
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise HTTPException(413)  # the one kind of exception that FastAPI lets through while it reads a body
            return message

        await self._app(scope, counted, send)
