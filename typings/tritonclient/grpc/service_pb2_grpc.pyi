"""The calls of inference.GRPCInferenceService that this project uses."""

import grpc.aio
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse

class GRPCInferenceServiceStub:
    ModelStreamInfer: grpc.aio.StreamStreamMultiCallable[ModelInferRequest, ModelStreamInferResponse]
    def __init__(self, channel: grpc.aio.Channel) -> None: ...

class GRPCInferenceServiceServicer: ...

def add_GRPCInferenceServiceServicer_to_server(
    servicer: GRPCInferenceServiceServicer, server: grpc.aio.Server
) -> None: ...
