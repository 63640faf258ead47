"""Says what the gateway asks of a worker; knows neither Triton nor gRPC."""

from collections.abc import AsyncGenerator
from typing import Protocol

from services.gateway.catalog import ServedModel
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse


class ChatWorker(Protocol):
    """The seam between the gateway's two faces and the mesh behind it."""

    def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        """Stream the answers of request.model; the last piece of each has a finish_reason. Raises MeshError.

        Closing the generator frees everything the request holds.
        """
        ...

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Return once the model's engine answered; raises MeshError."""
        ...
