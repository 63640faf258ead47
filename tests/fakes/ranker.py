"""Stands in for a ranker at its worker's seam: every word is a token, and its letters count."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.rerank_worker.request import RerankRequest


@dataclass(frozen=True, slots=True)
class FakePair:
    token_ids: Sequence[int]
    num_shared: int
    truncated_tokens: int = 0


class FakeRanker:
    """Scores by the number of words that a document shares with the query."""

    threshold = 0.75

    def prepare(self, request: RerankRequest) -> list[FakePair]:
        query = [len(word) for word in request.query.split()]
        pairs: list[FakePair] = []
        for document in request.documents:
            words = [len(word) for word in document.split()]
            limit = request.max_tokens_per_document or len(words)
            pairs.append(FakePair(query + words[:limit], len(query), max(0, len(words) - limit)))
        return pairs

    def score(self, pairs: Sequence[FakePair]) -> list[float]:
        return [float(len(set(p.token_ids[: p.num_shared]) & set(p.token_ids[p.num_shared :]))) for p in pairs]

    def relevance(self, raw: float) -> float:
        return 1 / (1 + math.exp(-raw))
