"""Serves the typed TokenizeService on the same upstream code as REST."""

from typing import Final

import grpc

from services.gateway.deps import Gateway
from services.gateway.grpc_api.boundary import answering
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse
from zhinao.tokenize.v1.tokenize_pb2_grpc import TokenizeServiceServicer

_TOKENIZE: Final = "/zhinao.tokenize.v1.TokenizeService/Tokenize"
_DETOKENIZE: Final = "/zhinao.tokenize.v1.TokenizeService/Detokenize"


class TokenizeServicer(TokenizeServiceServicer):
    """TokenizeService for any number of served chat models."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Tokenize(
        self, request: TokenizeRequest, context: grpc.aio.ServicerContext[TokenizeRequest, TokenizeResponse]
    ) -> TokenizeResponse:
        """Answer the ids of a text or a conversation."""
        async with answering(context, self._gateway, route=_TOKENIZE, request=request):
            return await self._gateway.search.tokenize(request)

    async def Detokenize(
        self, request: DetokenizeRequest, context: grpc.aio.ServicerContext[DetokenizeRequest, DetokenizeResponse]
    ) -> DetokenizeResponse:
        """Answer the text of ids."""
        async with answering(context, self._gateway, route=_DETOKENIZE, request=request):
            return await self._gateway.search.detokenize(request)
