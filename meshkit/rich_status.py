"""Decides how a failure looks over gRPC beside its code: google.rpc's details; knows no server."""

from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from meshkit.errors import MeshError, Reason

_DOMAIN: Final = "zhinao.mesh"


def rich_status(error: MeshError, *, message: str, wait_s: float | None) -> Status:
    """The failure with ErrorInfo; RetryInfo, BadRequest and QuotaFailure where they have something to say.

    That is: when to try again, which field is wrong, which limit of the key is reached. message: what the client may
    read. wait_s: after which the same request will do; None if nobody can say.
    """
    info = ErrorInfo(reason=error.reason, domain=_DOMAIN, metadata={"param": error.param} if error.param else {})
    details = [_packed(info)]
    if wait_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(wait_s * 1000))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    if error.param and error.row.grpc is grpc.StatusCode.INVALID_ARGUMENT:
        violation = BadRequest.FieldViolation(field=error.param, description=error.message)
        details.append(_packed(BadRequest(field_violations=[violation])))
    if error.reason is Reason.TENANT_LIMIT:
        subject = error.code or error.row.openai_code or ""
        details.append(_packed(QuotaFailure(violations=[{"subject": subject, "description": error.message}])))
    code: int = error.row.grpc.value[0]
    return Status(code=code, message=message, details=details)


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
