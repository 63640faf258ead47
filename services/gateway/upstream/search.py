"""Decides which model a search request goes to and how long it may take; both faces of the gateway ask here."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from services.gateway.call import CURRENT
from services.gateway.catalog import Catalog, Kind
from services.gateway.upstream.worker import Worker
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse

_MOST_AT_ONCE: Final = 32  # of one client's requests: a worker that refuses one for want of room fails them all


class Search:
    """Embedding and scoring for any number of served models. timeout_s: the longest a request may take."""

    def __init__(self, catalog: Catalog, worker: Worker, *, timeout_s: float) -> None:
        self._catalog = catalog
        self._worker = worker
        self._timeout_s = timeout_s

    async def embed(self, request: EmbedRequest, *, time_remaining_s: float | None = None) -> EmbedResponse:
        """One vector per input, in order. Raises MeshError."""
        self._address(request, "embed")
        return await self._worker.embed(request, timeout_s=self._limit_s(time_remaining_s))

    async def rerank(self, request: RerankRequest, *, time_remaining_s: float | None = None) -> RerankResponse:
        """One score per document, in order. Raises MeshError."""
        self._address(request, "rerank")
        return await self._worker.rerank(request, timeout_s=self._limit_s(time_remaining_s))

    async def rerank_all(self, requests: Sequence[RerankRequest]) -> list[RerankResponse]:
        """The answers to requests of one client, in order, within the time of one. Raises the first MeshError."""
        places = asyncio.Semaphore(_MOST_AT_ONCE)
        end_s = time.monotonic() + self._timeout_s

        async def rerank(request: RerankRequest) -> RerankResponse:
            async with places:
                return await self.rerank(request, time_remaining_s=max(end_s - time.monotonic(), 0))

        tasks = [asyncio.create_task(rerank(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _address(self, request: EmbedRequest | RerankRequest, kind: Kind) -> None:
        request.model = self._catalog.find_kind(kind, request.model).id
        request.request_id = CURRENT.get().request_id

    def _limit_s(self, time_remaining_s: float | None) -> float:
        return self._timeout_s if time_remaining_s is None else min(self._timeout_s, time_remaining_s)
