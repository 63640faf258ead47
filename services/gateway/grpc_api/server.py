"""Joins the parts of the gRPC face: the typed services, their health and reflection."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from typing_extensions import override

from meshkit.errors import MeshError, Reason
from services.gateway.deps import Gateway
from services.gateway.grpc_api.boundary import answering
from services.gateway.grpc_api.chat import ChatServicer
from services.gateway.grpc_api.health import KINDS, Health
from services.gateway.grpc_api.search import EmbeddingServicer, RerankServicer
from services.gateway.grpc_api.tokenize import TokenizeServicer
from zhinao.chat.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server
from zhinao.embedding.v1.embedding_pb2_grpc import add_EmbeddingServiceServicer_to_server
from zhinao.rerank.v1.rerank_pb2_grpc import add_RerankServiceServicer_to_server
from zhinao.tokenize.v1.tokenize_pb2_grpc import add_TokenizeServiceServicer_to_server

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server behind it
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),  # clients behind idle-cutting proxies ping; closing on them loses answers
)


class GrpcFace:
    """The gateway's gRPC server. start and stop are its only effects."""

    def __init__(self, gateway: Gateway) -> None:
        settings = gateway.settings
        # What gRPC finds too long itself it refuses in words of its own, which name no reason.
        options = (*_OPTIONS, ("grpc.max_receive_message_length", 2 * settings.max_body_bytes))
        self._server = grpc.aio.server(options=options, interceptors=[_Refusing(gateway)])
        add_ChatServiceServicer_to_server(ChatServicer(gateway), self._server)
        add_EmbeddingServiceServicer_to_server(EmbeddingServicer(gateway), self._server)
        add_RerankServiceServicer_to_server(RerankServicer(gateway), self._server)
        add_TokenizeServiceServicer_to_server(TokenizeServicer(gateway), self._server)
        add_HealthServicer_to_server(Health(gateway), self._server)
        names = (*KINDS, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._address = f"{settings.host}:{settings.grpc_port}"

    async def start(self) -> int:
        """Begin to serve; returns the port. RuntimeError if it is taken."""
        port = self._server.add_insecure_port(self._address)
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, and cut off what is running after that time."""
        await self._server.stop(grace_s)


class _Refusing(grpc.aio.ServerInterceptor):
    """Has refused what reaches no servicer: methods that are unknown, and messages that are too long or unreadable.

    Such a message comes to its servicer as the failure, which answers it as any other one.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @override
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None:
            return self._unknown(method)
        if not method.startswith("/zhinao."):
            return handler
        parse, most = handler.request_deserializer, self._gateway.settings.max_body_bytes

        def read(data: bytes) -> object:
            if len(data) > most:
                return MeshError(Reason.TOO_LARGE, f"the message is {len(data)} bytes, the limit is {most}")
            try:
                return parse(data)
            except DecodeError:
                return MeshError(Reason.INVALID_REQUEST, f"the message cannot be read as the request of {method}")

        return handler._replace(request_deserializer=read)

    def _unknown(self, method: str) -> "grpc.RpcMethodHandler[Any, Any]":
        async def refuse(_requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            error = MeshError(Reason.UNKNOWN_RPC, f"there is no method {method}")
            async with answering(context, self._gateway, route="unmatched", request=error):
                pass

        return grpc.stream_stream_rpc_method_handler(refuse)  # whatever it is, nothing of it is read
