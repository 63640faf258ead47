"""Ranks by word statistics and judges rankings; pure, knows no model."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_K1, _B = 1.2, 0.75


class BM25:
    """Okapi's BM25 over words in lower case. Source: Robertson and Zaragoza, 2009; idf as Lucene's, never below 0."""

    def __init__(self, documents: Sequence[str]) -> None:
        self._counts = [Counter(_words(document)) for document in documents]
        lengths = [count.total() for count in self._counts]
        average = sum(lengths) / len(lengths)
        self._norms = [_K1 * (1 - _B + _B * length / average) for length in lengths]
        self._frequencies = Counter(word for count in self._counts for word in count)

    def scores(self, query: str) -> list[float]:
        """One for each document."""
        idf = {word: self._idf(word) for word in _words(query)}
        return [
            sum(idf[word] * count[word] * (_K1 + 1) / (count[word] + norm) for word in _words(query) if count[word])
            for count, norm in zip(self._counts, self._norms, strict=True)
        ]

    def _idf(self, word: str) -> float:
        having = self._frequencies[word]
        return math.log(1 + (len(self._counts) - having + 0.5) / (having + 0.5))


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over queries. MAP counts a relevant document that is not in a ranking as never found."""

    mean_average_precision: float
    ndcg_at_10: float


def judge(rankings: Sequence[Sequence[int]], relevant: Sequence[int]) -> Quality:
    """Judge a ranking of document indices for each query, of which exactly one document is relevant."""
    ranks = [
        ranking.index(wanted) + 1 if wanted in ranking else None
        for ranking, wanted in zip(rankings, relevant, strict=True)
    ]
    precisions = [1 / rank for rank in ranks if rank]  # of one relevant document: average precision is 1 / rank
    gains = [1 / math.log2(rank + 1) for rank in ranks if rank and rank <= 10]
    return Quality(sum(precisions) / len(ranks), sum(gains) / len(ranks))


def best_first(scores: Sequence[float]) -> list[int]:
    """Indices from the highest score to the lowest; of equals the first comes first."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def kendall_tau(left: Sequence[float], right: Sequence[float]) -> float:
    """How far two scorings agree on the order of each two items: 1 always, -1 never. Ties count as neither.

    Source: Kendall, 1938 (tau-a).
    """
    pairs = [(i, j) for j in range(len(left)) for i in range(j)]
    signs = [_sign(left[i] - left[j]) * _sign(right[i] - right[j]) for i, j in pairs]
    return sum(signs) / len(signs)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
