"""The one call of grpcio-status that this project uses; types-grpcio-status leaves its argument untyped."""

import grpc
from google.rpc.status_pb2 import Status

def to_status(status: Status) -> grpc.Status: ...
