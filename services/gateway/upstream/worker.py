"""Says what the gateway asks of a worker; knows neither Triton nor gRPC."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from services.gateway.catalog import ServedModel
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse


class Worker(Protocol):
    """The seam between the gateway's two faces and the mesh behind it."""

    def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        """Stream the answers of request.model; the last piece of each has a finish_reason. Raises MeshError.

        Closing the generator frees everything the request holds.
        """
        ...

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        """One vector of request.model per input, in order. Raises MeshError; cancelling frees everything it holds."""
        ...

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        """One score of request.model per document, in order. Raises MeshError; cancelling frees everything it holds."""
        ...

    def together(
        self, requests: Sequence[GenerateRequest] | Sequence[RerankRequest], /
    ) -> AbstractAsyncContextManager[None]:
        """Around questions that one call asks of one model at once; raises MeshError if they may not all be asked."""
        ...

    def check_staying(self) -> None:
        """Raise NOT_READY once the gateway is about to leave; for those who choose among gateways."""
        ...

    async def tokenize(self, request: TokenizeRequest, *, timeout_s: float) -> TokenizeResponse:
        """The ids that request.model makes of a text or a conversation. Raises MeshError."""
        ...

    async def detokenize(self, request: DetokenizeRequest, *, timeout_s: float) -> DetokenizeResponse:
        """The text that ids are to request.model. Raises MeshError."""
        ...

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Return once the model's engine answered; raises MeshError."""
        ...
