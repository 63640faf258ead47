"""Decides how a failure looks over HTTP: one body, made from the one table; internal text stays inside."""

import json
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.openai.error import ErrorBody
from services.gateway.translate.problems import to_mesh_error

_RETRY_AFTER_S: Final = "1"
_RETRYABLE: Final = (Reason.QUEUE_FULL, Reason.NOT_READY)


def public_message(error: MeshError) -> str:
    """What a client may read: of an internal failure only the id under which it is logged."""
    if error.reason is Reason.INTERNAL:
        return f"the request failed inside the mesh; its id is {CURRENT.get().request_id}"
    return error.message


def error_body(error: MeshError) -> ErrorBody:
    """The one shape of every error."""
    return {
        "error": {
            "message": public_message(error),
            "type": error.row.openai_type,
            "param": error.param,
            "code": error.code or error.row.openai_code,
        }
    }


def error_response(error: MeshError) -> Response:
    """The failure as a whole HTTP answer."""
    headers = {"retry-after": _RETRY_AFTER_S} if error.reason in _RETRYABLE else None
    body = json.dumps(error_body(error))  # ASCII: a bad text that is echoed may not be valid Unicode
    return Response(body, status_code=error.row.http, headers=headers, media_type="application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Answer what the framework itself refuses in our shape; a MeshError is answered by the boundary."""

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> Response:  # pyright: ignore[reportUnusedFunction]
        return error_response(to_mesh_error(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def on_refused(request: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        response = error_response(_refusal(request, error))
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
