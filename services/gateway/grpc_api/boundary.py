"""Decides that every gRPC call is answered once, named, counted and logged, whatever happens inside."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc

from meshkit.errors import MeshError, Reason
from services.gateway.call import Call, begin_call
from services.gateway.deps import Gateway
from services.gateway.grpc_api.status import to_status
from services.gateway.spans import begin_span, end_rpc_span

log = logging.getLogger(__name__)


class Request(Protocol):
    """Of any method."""

    request_id: str


@asynccontextmanager
async def answering(
    context: grpc.aio.ServicerContext[Any, Any], gateway: Gateway, *, route: str, request: Request | MeshError
) -> AsyncGenerator[Call]:
    """Around the whole of an RPC; a failure inside ends the call with the table's status.

    request: or why there is none. Trailing metadata says what the headers of an HTTP answer do.
    """
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    named = None if isinstance(request, MeshError) else request.request_id
    call = begin_call(
        named or metadata.get("x-request-id"),
        metadata.get("traceparent"),
        metadata.get("authorization"),
    )
    call.timeout = context.time_remaining()
    begin_span(gateway.tracer, call)
    code = grpc.StatusCode.CANCELLED  # what it is if neither an end nor an error comes
    try:
        if gateway.tenancy is not None:
            await gateway.tenancy.authenticate(call, metadata.get("authorization"))
        if isinstance(request, MeshError):
            raise request
        yield call
        code = grpc.StatusCode.OK
        context.set_trailing_metadata(tuple(call.headers().items()))
    except MeshError as error:
        code = error.row.grpc
        await _abort(context, error, call)
    except Exception:  # boundary: a client always gets a status of ours
        log.exception("request %s failed", call.request_id)
        code = grpc.StatusCode.INTERNAL
        await _abort(context, MeshError(Reason.INTERNAL, ""), call)
    finally:
        gateway.metrics.record(call, method="gRPC", route=route, code=code.name)
        end_rpc_span(call, route=route, code=code)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: MeshError, call: Call) -> None:
    status = to_status(error)
    metadata = (*(status.trailing_metadata or ()), *call.headers().items())
    await context.abort(status.code, status.details, metadata)
