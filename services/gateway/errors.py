"""Decides how a failure looks over HTTP: made from the one table, in words its route's clients read, none internal."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.openai.error import ErrorBody
from services.gateway.search.rerank import RerankErrorBody
from services.gateway.search.tei import TeiErrorBody
from services.gateway.translate.problems import to_mesh_error

_LATER: Final = (Reason.QUEUE_FULL, Reason.NOT_READY)  # the same request will do, only later
_UNKNOWN_WAIT_S: Final = 1.0  # until such a request will do, where nobody knows
_REFUSALS: Final = (*_LATER, Reason.TENANT_LIMIT, Reason.DEADLINE)  # whether to retry is said, not left to a guess


def public_message(error: MeshError) -> str:
    """What a client may read: of an internal failure only the id under which it is logged."""
    if error.reason is Reason.INTERNAL:
        return f"the request failed inside the mesh; its id is {CURRENT.get().request_id}"
    return error.message


def error_body(error: MeshError) -> ErrorBody:
    """The shape of every error, to which some routes add."""
    return {
        "error": {
            "message": public_message(error),
            "type": error.row.openai_type,
            "param": error.param,
            "code": error.code or error.row.openai_code,
        }
    }


def _rerank_error_body(error: MeshError) -> RerankErrorBody:
    message = public_message(error)
    return {**error_body(error), "message": message, "detail": message}


def _tei_error_body(error: MeshError) -> TeiErrorBody:
    detail, message = error_body(error)["error"], public_message(error)
    match error.reason:
        case Reason.QUEUE_FULL:
            return {**detail, "error": message, "error_type": "overloaded"}
        case Reason.NOT_READY:
            return {**detail, "error": message, "error_type": "unhealthy"}
        case _:
            kind = "validation" if error.row.http < 500 else "backend"
            return {**detail, "error": message, "error_type": kind}


_BODIES: Final[Mapping[str, Callable[[MeshError], Mapping[str, object]]]] = {
    "/v1/rerank": _rerank_error_body,
    "/v2/rerank": _rerank_error_body,
    "/rerank": _tei_error_body,
    "/embed": _tei_error_body,
}


def retry_after_s(error: MeshError) -> float | None:
    """How long to wait before asking again, in seconds; None if that would not help, or nobody can say."""
    if error.retry_after_s is None and error.reason in _LATER:
        return _UNKNOWN_WAIT_S
    return error.retry_after_s


def _headers(error: MeshError) -> dict[str, str]:
    """What tells a client how to ask again: as whom, and whether and when."""
    if error.reason is Reason.UNAUTHENTICATED:
        return {"www-authenticate": "Bearer"}
    if error.reason not in _REFUSALS:
        return {}
    wait_s = retry_after_s(error)
    if wait_s is None:
        return {"x-should-retry": "false"}
    return {
        "retry-after": str(math.ceil(wait_s)),
        "retry-after-ms": str(math.ceil(wait_s * 1000)),
        "x-should-retry": "true",
    }


def error_response(error: MeshError, path: str) -> Response:
    """The failure as a whole HTTP answer of the route at that path."""
    body = json.dumps(_BODIES.get(path, error_body)(error))  # ASCII: a bad text that is echoed may not be valid Unicode
    return Response(body, status_code=error.row.http, headers=_headers(error), media_type="application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Answer what the framework itself refuses in our shape; a MeshError is answered by the boundary."""

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:  # pyright: ignore[reportUnusedFunction]
        return error_response(to_mesh_error(error.errors()[0]), request.url.path)

    @app.exception_handler(HTTPException)
    async def on_refused(request: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        response = error_response(_refusal(request, error), request.url.path)
        response.headers.update(error.headers or {})
        return response


def _refusal(request: Request, error: HTTPException) -> MeshError:
    match error.status_code:
        case 404:
            return MeshError(Reason.ROUTE_NOT_FOUND, f"there is nothing at {request.method} {request.url.path}")
        case 405:
            return MeshError(Reason.METHOD_NOT_ALLOWED, f"{request.method} is not allowed at {request.url.path}")
        case 413:
            limit = request.app.state.gateway.settings.max_body_bytes
            return MeshError(Reason.TOO_LARGE, f"the body is larger than the limit of {limit} bytes")
        case _:
            return MeshError(Reason.INVALID_REQUEST, "the body could not be read as JSON", code="invalid_json")
