"""Decides which HTTP routes need an API key, before anything of a body is read."""

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.call import CURRENT, PROBES
from services.gateway.tenancy.tenancy import Tenancy

_READABLE: Final = frozenset(
    {"/", "/docs", "/openapi.json", "/version"}
)  # the same for everybody, as are the assets of /docs


class KeyCheck:
    """ASGI layer of a mesh that asks for keys."""

    def __init__(self, app: ASGIApp, tenancy: Tenancy) -> None:
        self._app = app
        self._tenancy = tenancy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises MeshError UNAUTHENTICATED without a key that works."""
        if scope["type"] == "http" and not _is_open(scope["path"]):
            await self._tenancy.authenticate(CURRENT.get(), Headers(scope=scope).get("authorization"))
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in PROBES or path in _READABLE or path.startswith("/docs/")
