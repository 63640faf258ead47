"""Decides that every HTTP request is answered once, named, counted and logged, whatever happens inside."""

import logging

from opentelemetry.trace import Tracer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshkit.errors import TABLE, MeshError, Reason
from services.gateway.call import TIMEOUT_HEADER, begin_call
from services.gateway.errors import error_response
from services.gateway.metrics import Metrics
from services.gateway.spans import begin_span, end_http_span

log = logging.getLogger(__name__)


class Boundary:
    """ASGI layer around everything that can fail."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an exception that escapes becomes an answer if none has begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        call = begin_call(headers.get("x-request-id"), headers.get("traceparent"), headers.get("authorization"))
        call.timeout = headers.get(TIMEOUT_HEADER)
        begin_span(self._tracer, call, scope["path"])
        status: int | None = None

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(call.headers())
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except MeshError as error:
            if error.reason is Reason.CLIENT_CANCELLED:
                status = error.row.http  # never sent
            else:
                await error_response(error, scope["path"])(scope, receive, send_named)
        except Exception:  # boundary: a client always gets an answer
            if status is not None:
                raise  # too late for one: the server breaks the connection off
            log.exception("request %s failed", call.request_id)
            await error_response(MeshError(Reason.INTERNAL, ""), scope["path"])(scope, receive, send_named)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            code = status or TABLE[Reason.CLIENT_CANCELLED].http
            self._metrics.record(call, method=scope["method"], route=route, code=str(code))
            end_http_span(call, method=scope["method"], route=route, status=code)
