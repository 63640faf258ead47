"""Decides how a failure looks over gRPC: the table's code, with google.rpc ErrorInfo beside it."""

from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from meshkit.errors import MeshError
from services.gateway.errors import public_message

_DOMAIN: Final = "zhinao.mesh"


def to_status(error: MeshError) -> grpc.Status:
    """The failure as a rich status."""
    info = ErrorInfo(reason=error.reason, domain=_DOMAIN, metadata={"param": error.param} if error.param else {})
    detail = Any()
    detail.Pack(info)
    code: int = error.row.grpc.value[0]
    return rpc_status.to_status(Status(code=code, message=public_message(error), details=[detail]))
