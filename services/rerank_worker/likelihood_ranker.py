"""Scores pairs by how likely a language model finds the query after the document; knows no batches."""

from collections.abc import Sequence
from math import fsum
from typing import Final

import torch

from modelkit.tokenizer import Tokenizer
from services.rerank_worker.calibration import Calibration
from services.rerank_worker.quota import check_request, share
from services.rerank_worker.request import Pair, RerankRequest
from services.rerank_worker.steps import PairSteps

# Around the document. Chosen by measurement; see docs/evaluation.md.
_BEFORE: Final = "Passage: "
_BEHIND: Final = "\nPlease write a question based on this passage.\nQuestion:"


class LikelihoodRanker:
    """See Ranker. The score is the mean log-likelihood of the query's tokens, so it is at most 0.

    Source: Improving passage retrieval with zero-shot question generation (Sachan et al., 2022).
    """

    def __init__(self, tokenizer: Tokenizer, steps: PairSteps, calibration: Calibration, max_tokens: int) -> None:
        """max_tokens: of a pair with the prompt around it."""
        self._tokenizer, self._steps, self._calibration = tokenizer, steps, calibration
        self._before = (*tokenizer.prefix_ids, *tokenizer.encode(_BEFORE))
        self._behind = tuple(tokenizer.encode(_BEHIND))
        self._room = max_tokens - len(self._before) - len(self._behind)
        self.threshold = calibration.threshold
        self.description = f"query likelihood, {steps.description}"

    def prepare(self, request: RerankRequest) -> list[Pair]:
        """See Ranker."""
        check_request(request)
        query_ids = self._tokenizer.encode(f" {request.query.strip()}")
        return [self._pair(query_ids, self._tokenizer.encode(each), request) for each in request.documents]

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """See Ranker."""
        found: list[list[float]] = [[] for _ in pairs]
        for spans, outputs in self._steps.run(pairs, [len(pair.targets) for pair in pairs]):
            targets = [t for each in spans for t in pairs[each.pair].targets[each.first : each.first + each.count]]
            logits = outputs[:, : self._tokenizer.vocab_size]  # what lies beyond is padding
            chosen = logits.gather(1, torch.tensor(targets)[:, None])[:, 0] - logits.logsumexp(1)
            for span, values in zip(spans, torch.split(chosen, [each.count for each in spans]), strict=True):
                found[span.pair] += map(float, values)
        return [fsum(values) / len(values) for values in found]

    def relevance(self, raw: float) -> float:
        """See Ranker."""
        return self._calibration.of_log_likelihood(raw)

    def _pair(self, query_ids: list[int], document_ids: list[int], request: RerankRequest) -> Pair:
        wanted = document_ids[: request.max_tokens_per_document]
        num_query, num_document = share(len(query_ids), len(wanted), self._room)
        targets = tuple(query_ids[:num_query])
        token_ids = (*self._before, *wanted[:num_document], *self._behind, *targets[:-1])
        dropped = len(query_ids) - num_query + len(document_ids) - num_document
        return Pair(token_ids, len(self._before), dropped, targets)
