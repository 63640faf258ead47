"""Serves the typed ChatService on the same upstream code as REST; all but n is the worker's to judge."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import grpc

from meshkit.errors import MeshError, Reason
from meshkit.wire import MOST_ANSWERS
from services.gateway.call import CURRENT
from services.gateway.deps import SEED_LIMIT, Gateway
from services.gateway.grpc_api.boundary import answering
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceServicer

_ROUTE: Final = "/zhinao.chat.v1.ChatService/Generate"


class ChatServicer(ChatServiceServicer):
    """ChatService for any number of served models."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Generate(
        self, request: GenerateRequest, context: grpc.aio.ServicerContext[GenerateRequest, GenerateResponse]
    ) -> AsyncGenerator[GenerateResponse, None]:
        """Stream one answer; a client that cancels, cancels it upstream."""
        async with answering(context, self._gateway, route=_ROUTE, request=request) as call:
            request.request_id, request.tenant = call.request_id, call.tenant  # nobody chooses whose cache is used
            async with aclosing(self._pieces(request)) as pieces:
                async for piece in pieces:
                    yield piece

    def _pieces(self, request: GenerateRequest) -> AsyncGenerator[GenerateResponse, None]:
        if request.HasField("n") and not 1 <= request.n <= MOST_ANSWERS:
            raise MeshError(
                Reason.INVALID_REQUEST, f"n is {request.n}; it must be between 1 and {MOST_ANSWERS}", param="n"
            )
        request.model = self._gateway.catalog.find_kind("chat", request.model, CURRENT.get().may_use).id
        if not request.sampling.HasField("seed"):
            request.sampling.seed = secrets.randbelow(SEED_LIMIT)
        return self._gateway.worker.generate(request, timeout_s=self._gateway.settings.request_timeout_s)
