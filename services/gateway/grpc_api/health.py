"""Decides which of the gateway's services serve, as gRPC's health protocol asks: those whose models answer a ping."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from meshkit.errors import MeshError
from meshkit.wire import PING_TIMEOUT_S
from services.gateway.catalog import Kind
from services.gateway.deps import Gateway
from zhinao.chat.v1 import chat_pb2
from zhinao.embedding.v1 import embedding_pb2
from zhinao.rerank.v1 import rerank_pb2
from zhinao.tokenize.v1 import tokenize_pb2

_FILES: Final[tuple[tuple[Any, Kind], ...]] = (
    (chat_pb2, "chat"),
    (embedding_pb2, "embed"),
    (rerank_pb2, "rerank"),
    (tokenize_pb2, "chat"),
)
KINDS: Final[dict[str, Kind]] = {  # of the models behind each service
    service.full_name: kind for file, kind in _FILES for service in file.DESCRIPTOR.services_by_name.values()
}
_PAUSE_S: Final = 0.5  # between two looks for one who watches


class Health(HealthServicer):
    """grpc.health.v1.Health. The empty name is the process itself, as `/serving` tells it; it asks no model."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Check(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]
    ) -> HealthCheckResponse:
        """What is now; NOT_FOUND for a service of another name."""
        status = await self._status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r:.80}")
        return HealthCheckResponse(status=status)

    async def Watch(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]
    ) -> AsyncGenerator[HealthCheckResponse, None]:
        """What is now, and then each change."""
        told: int | None = None
        while not context.done():
            if (status := await self._status(request.service)) != told:
                told = status
                yield HealthCheckResponse(status=status)
            await asyncio.sleep(_PAUSE_S)

    async def _status(self, service: str) -> int:
        if service and service not in KINDS:
            return HealthCheckResponse.SERVICE_UNKNOWN
        try:
            await self._check(service)
        except MeshError:
            return HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse.SERVING

    async def _check(self, service: str) -> None:
        worker, catalog = self._gateway.worker, self._gateway.catalog
        worker.check_staying()
        if not service:
            return
        catalog.find_kind(KINDS[service], None)  # a kind of which no model is here cannot be served
        models = [model for model in catalog.models if model.kind == KINDS[service]]
        await asyncio.gather(*(worker.ping(model, timeout_s=PING_TIMEOUT_S) for model in models))
