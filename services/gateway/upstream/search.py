"""Decides which model a request for one answer goes to; both faces of the gateway ask here."""

import asyncio
import time
from collections.abc import Sequence

from services.gateway.call import CURRENT
from services.gateway.catalog import Catalog, Kind
from services.gateway.upstream.several import MOST_AT_ONCE
from services.gateway.upstream.worker import Worker
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse


class Search:
    """Embedding, scoring and tokenising for any number of served models. timeout_s: the longest a request may take."""

    def __init__(self, catalog: Catalog, worker: Worker, *, timeout_s: float) -> None:
        self._catalog = catalog
        self._worker = worker
        self._timeout_s = timeout_s

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """One vector per input, in order. Raises MeshError."""
        self._address(request, "embed")
        return await self._worker.embed(request, timeout_s=self._timeout_s)

    async def rerank(self, request: RerankRequest) -> RerankResponse:
        """One score per document, in order. Raises MeshError."""
        self._address(request, "rerank")
        return await self._worker.rerank(request, timeout_s=self._timeout_s)

    async def rerank_all(self, requests: Sequence[RerankRequest]) -> list[RerankResponse]:
        """The answers to requests of one client, in order, within the time of one. Raises the first MeshError."""
        places = asyncio.Semaphore(MOST_AT_ONCE)
        end_s = time.monotonic() + self._timeout_s

        async def rerank(request: RerankRequest) -> RerankResponse:
            async with places:
                return await self._worker.rerank(request, timeout_s=max(end_s - time.monotonic(), 0))

        for request in requests:
            self._address(request, "rerank")
        async with self._worker.together(requests):
            tasks = [asyncio.create_task(rerank(request)) for request in requests]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResponse:
        """The ids that a chat model makes of a text or a conversation. Raises MeshError."""
        self._address(request, "chat")
        return await self._worker.tokenize(request, timeout_s=self._timeout_s)

    async def detokenize(self, request: DetokenizeRequest) -> DetokenizeResponse:
        """The text that ids are to a chat model. Raises MeshError."""
        self._address(request, "chat")
        return await self._worker.detokenize(request, timeout_s=self._timeout_s)

    def _address(self, request: EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest, kind: Kind) -> None:
        call = CURRENT.get()
        request.model = self._catalog.find_kind(kind, request.model, call.may_use).id
        request.request_id = call.request_id
