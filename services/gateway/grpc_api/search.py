"""Serves the typed EmbeddingService and RerankService on the same upstream code as REST."""

from typing import Final

import grpc

from services.gateway.deps import Gateway
from services.gateway.grpc_api.boundary import answering
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.embedding.v1.embedding_pb2_grpc import EmbeddingServiceServicer
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.rerank.v1.rerank_pb2_grpc import RerankServiceServicer

_EMBED: Final = "/zhinao.embedding.v1.EmbeddingService/Embed"
_RERANK: Final = "/zhinao.rerank.v1.RerankService/Rerank"


class EmbeddingServicer(EmbeddingServiceServicer):
    """EmbeddingService for any number of served models."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Embed(
        self, request: EmbedRequest, context: grpc.aio.ServicerContext[EmbedRequest, EmbedResponse]
    ) -> EmbedResponse:
        """Answer one vector per input, in order."""
        async with answering(context, self._gateway, route=_EMBED, request=request):
            return await self._gateway.search.embed(request)


class RerankServicer(RerankServiceServicer):
    """RerankService for any number of served models."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Rerank(
        self, request: RerankRequest, context: grpc.aio.ServicerContext[RerankRequest, RerankResponse]
    ) -> RerankResponse:
        """Answer one score per document, in order."""
        async with answering(context, self._gateway, route=_RERANK, request=request):
            return await self._gateway.search.rerank(request)
