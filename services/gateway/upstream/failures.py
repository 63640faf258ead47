"""Decides which MeshError a failed Triton call means; logs what a client must not read."""

import logging
import re
from typing import Final

import grpc

from meshkit.errors import MeshError, Reason
from meshkit.wire import decode_error

log = logging.getLogger(__name__)

# What Triton says of a model it has not loaded yet, or no longer serves because it is exiting.
_NOT_SERVED: Final = re.compile(r"unknown model|stopped accepting|server (is )?not ready", re.IGNORECASE)
# What Envoy, or gRPC without an Envoy, says when nobody took the request: the worker is starting, or starting again.
_NOBODY_THERE: Final = re.compile(r"no healthy upstream|remote connection failure|connection refused", re.IGNORECASE)
# What Envoy says at its own bounds: of calls to one model, or of its memory.
_NO_ROOM: Final = re.compile(r"reset reason: overflow|envoy overloaded", re.IGNORECASE)
_WORKER_DIED: Final = re.compile(r"stub process .* is not healthy", re.IGNORECASE)  # until Triton is restarted


def from_text(text: str, *, model: str) -> MeshError:
    """Read the error_message of a stream: a worker's own words where there are any, else Triton's."""
    error = decode_error(text)
    if error is None and _NOT_SERVED.search(text):
        return _not_ready(model)
    if error is None and _WORKER_DIED.search(text):
        return lost(model)
    if error is None or error.reason is Reason.INTERNAL:
        log.error("triton failed a request to %s: %s", model, text)
        return _internal()
    if error.reason is Reason.CLIENT_CANCELLED:  # the client is still here, so it was someone on the way
        return lost(model)
    return error


def from_status(error: grpc.aio.AioRpcError, *, model: str) -> MeshError:
    """Read the status that ended a call."""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if _NOBODY_THERE.search(error.details() or ""):
            return _not_ready(model)
        case grpc.StatusCode.UNAVAILABLE if _NO_ROOM.search(error.details() or ""):
            return _no_room(model)
        case grpc.StatusCode.NOT_FOUND:  # Triton's word while it exits
            return _not_ready(model)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return lost(model)
        case _ if "RST_STREAM" in (error.details() or ""):  # how Envoy ends a stream whose worker died
            return lost(model)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return out_of_time(model)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return _no_room(model)
        case code:
            log.error("the call to %s ended with %s: %s", model, code.name, error.details())
            return _internal()


def lost(model: str) -> MeshError:
    """The connection ended before the answer did."""
    return MeshError(Reason.UPSTREAM_LOST, f"the connection to the model {model!r} was lost")


def out_of_time(model: str) -> MeshError:
    """The time that the request had was over before the answer was."""
    return MeshError(Reason.DEADLINE, f"the model {model!r} did not finish its answer in time")


def _not_ready(model: str) -> MeshError:
    return MeshError(Reason.NOT_READY, f"the model {model!r} is not ready")


def _no_room(model: str) -> MeshError:
    return MeshError(Reason.QUEUE_FULL, f"the model {model!r} has no room for another request")


def _internal() -> MeshError:
    return MeshError(Reason.INTERNAL, "the worker failed")
