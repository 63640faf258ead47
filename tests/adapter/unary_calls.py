"""Speaks to an adapter with one answer per request as Triton does."""

from typing import Any

from google.protobuf.message import Message

from meshkit.errors import MeshError
from meshkit.wire import decode_error
from tests.fakes import pb_utils


def send(adapter: Any, data: bytes) -> pb_utils.ResponseSender:
    call = pb_utils.InferenceRequest(data)
    adapter.execute([call])
    return call.sender


def answer(adapter: Any, request: Message) -> bytes:
    (data,), error = send(adapter, request.SerializeToString()).collect()
    assert error is None
    return data


def failure(adapter: Any, data: bytes) -> MeshError:
    _, error = send(adapter, data).collect()
    assert error is not None
    decoded = decode_error(error.message)
    assert decoded is not None
    return decoded
