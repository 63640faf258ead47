"""Scores pairs with a Zhinao reranker: decides their tokens and where the score is read; knows no batches."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from modelkit.config import CheckpointError
from modelkit.scoring_head import ScoringHead
from modelkit.tokenizer import Tokenizer
from services.rerank_worker.calibration import Calibration
from services.rerank_worker.quota import check_request, cut_text, share
from services.rerank_worker.request import Pair, RerankRequest
from services.rerank_worker.steps import PairSteps

_SEPARATOR: Final = "\n\n"
_TURNS: Final = ("<|im_start|>", "<|im_end|>")
_ANSWER: Final = "0"  # holds the answer's place
_RESERVED: Final = 64  # tokens that the original keeps free of text, for all that stands around it


class PairLayout:
    """Where the tokens of a pair stand: an empty system turn, the user's with both texts, and the answer's.

    Source: the published reranker's preprocessing. Texts never become control tokens. CheckpointError for a tokenizer
    without turns.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if missing := [name for name in _TURNS if name not in tokenizer.control_ids]:
            raise CheckpointError(f"the tokenizer lacks {' and '.join(missing)}, which a scoring head is read between")
        start, end = (tokenizer.control_ids[name] for name in _TURNS)
        newline = tokenizer.encode("\n")
        turn_end = [end, *newline]
        system, user, assistant = (
            [start, *tokenizer.encode(role), *newline] for role in ("system", "user", "assistant")
        )
        self._before = [*system, *turn_end, *user]
        self._behind = [*turn_end, *assistant]
        self._answer = [*tokenizer.encode(_ANSWER), *turn_end]

    def whole(self, text_ids: Sequence[int]) -> tuple[list[int], int]:
        """The whole row without padding, and the index of the answer in it."""
        row = [*self._before, *text_ids, *self._behind]
        return row + self._answer, len(row)


class ZhinaoRanker:
    """See Ranker. The score is a logit, read at the token that predicts the answer; what follows is not computed."""

    def __init__(
        self, tokenizer: Tokenizer, steps: PairSteps, head: ScoringHead, calibration: Calibration, max_tokens: int
    ) -> None:
        """max_tokens: of a row, the original's `max_length`, which it ignores and takes for 1,024."""
        self._tokenizer, self._steps, self._bias = tokenizer, steps, head.bias
        self._layout = PairLayout(tokenizer)
        self._calibration = calibration
        self._room = max_tokens - _RESERVED
        self.threshold = calibration.threshold
        self.description = f"reranker with a scoring head, {steps.description}"

    def prepare(self, request: RerankRequest) -> list[Pair]:
        """See Ranker."""
        check_request(request)
        query_ids = self._tokenizer.encode(request.query)
        texts = [self._fit(request, query_ids, document) for document in request.documents]
        rows: list[list[int]] = []
        for text_ids, _ in texts:
            row, answer = self._layout.whole(text_ids)
            rows.append(row[: answer + self._calibration.score_position + 1])
        # Documents may begin with what merges into the query's last token, so what is shared is looked up.
        num_shared = _common_prefix(rows)
        return [Pair(tuple(row), num_shared, dropped) for row, (_, dropped) in zip(rows, texts, strict=True)]

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """See Ranker."""
        scores = [0.0] * len(pairs)
        for spans, outputs in self._steps.run(pairs, [1] * len(pairs)):
            for span, value in zip(spans, outputs[:, 0], strict=True):
                scores[span.pair] = float(value) + self._bias
        return scores

    def relevance(self, raw: float) -> float:
        """See Ranker."""
        return self._calibration.of_logit(raw)

    def _fit(self, request: RerankRequest, query_ids: list[int], document: str) -> tuple[list[int], int]:
        """The ids of both texts, at most as many as there is room for, and how many were dropped."""
        document, num_cut = cut_text(self._tokenizer, document, request.max_tokens_per_document)
        if len(query_ids) <= self._room:  # else it never fits whole, and is too long to be read once for each document
            ids = self._tokenizer.encode(request.query + _SEPARATOR + document)
            kept_query, _ = share(len(query_ids), len(ids) - len(query_ids), self._room)
            if kept_query == len(query_ids):
                return ids[: self._room], max(0, len(ids) - self._room) + num_cut
        behind = self._tokenizer.encode(_SEPARATOR + document)
        kept_query, _ = share(len(query_ids), len(behind), self._room)
        num_dropped = max(0, len(query_ids) + len(behind) - self._room) + num_cut
        return (query_ids[:kept_query] + behind)[: self._room], num_dropped


def _common_prefix(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with, at most all but the last of the shortest: the score is read there."""
    low, high = min(rows), max(rows)  # whatever these two share, those between them share
    equal = takewhile(lambda both: both[0] == both[1], zip(low, high, strict=False))
    return min(sum(1 for _ in equal), min(map(len, rows)) - 1)
