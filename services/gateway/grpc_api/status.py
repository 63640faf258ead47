"""Decides how a failure looks over gRPC: the table's code, with google.rpc details beside it."""

import grpc
from grpc_status import rpc_status

from meshkit.errors import MeshError
from meshkit.rich_status import rich_status
from services.gateway.errors import public_message, retry_after_s


def to_status(error: MeshError) -> grpc.Status:
    """The failure as a rich status, in words that a client may read."""
    return rpc_status.to_status(rich_status(error, message=public_message(error), wait_s=retry_after_s(error)))
