"""What a refused client is told of when to ask again, over HTTP and gRPC."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from meshkit.errors import MeshError, Reason
from services.gateway.call import begin_call
from services.gateway.errors import error_response
from services.gateway.grpc_api.status import to_status

NAMES = ("retry-after", "retry-after-ms", "x-should-retry")


@pytest.fixture(autouse=True)
def _call() -> None:
    begin_call(None, None, None)


def told(error: MeshError) -> tuple[str | None, ...]:
    headers = error_response(error, "/v1/embeddings").headers
    return tuple(headers.get(name) for name in NAMES)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MeshError(Reason.QUEUE_FULL, "", retry_after_s=2.2504), ("3", "2251", "true")),
        (MeshError(Reason.QUEUE_FULL, ""), ("1", "1000", "true")),
        (MeshError(Reason.NOT_READY, ""), ("1", "1000", "true")),
        (MeshError(Reason.TENANT_LIMIT, "", retry_after_s=0.4), ("1", "400", "true")),
        (MeshError(Reason.TENANT_LIMIT, "", code="insufficient_quota"), (None, None, "false")),
        (MeshError(Reason.DEADLINE, ""), (None, None, "false")),
        (MeshError(Reason.INVALID_REQUEST, ""), (None, None, None)),
        (MeshError(Reason.INTERNAL, ""), (None, None, None)),
    ],
)
def test_http_says_when_and_whether_to_ask_again(error: MeshError, expected: tuple[str | None, ...]) -> None:
    assert told(error) == expected


def details_of(status: grpc.Status) -> list[Any]:
    details = dict(status.trailing_metadata)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    return list(Status.FromString(details).details)


def test_grpc_says_it_in_retry_info() -> None:
    status = to_status(MeshError(Reason.QUEUE_FULL, "full", retry_after_s=2.25))

    details = details_of(status)
    info, retry = ErrorInfo(), RetryInfo()
    assert details[0].Unpack(info) and details[1].Unpack(retry)
    assert (info.reason, retry.retry_delay.ToMilliseconds()) == ("QUEUE_FULL", 2250)


def test_grpc_gives_no_delay_where_waiting_does_not_help() -> None:
    status = to_status(MeshError(Reason.TENANT_LIMIT, "", code="insufficient_quota"))

    assert not any(detail.Is(RetryInfo.DESCRIPTOR) for detail in details_of(status))
