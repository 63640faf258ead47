"""Scores pairs with a BERT that reads both texts at once; decides their tokens and what the classifier says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from modelkit.config import CheckpointError
from modelkit.encoder_checkpoint import EncoderCheckpoint
from modelkit.encoder_tokenizer import EncoderTokenizer
from modelkit.row_encoder import RowEncoder
from modelkit.sentence import Pooling
from services.rerank_worker.calibration import Calibration
from services.rerank_worker.quota import check_request, share
from services.rerank_worker.request import Pair, RerankRequest


@dataclass(frozen=True, slots=True)
class Classifier:
    """BERT's pooler and a logit on it. pooler: weight and bias of its layer; weight: (hidden_size,)."""

    pooler: tuple[Tensor, Tensor]
    weight: Tensor
    bias: float

    @classmethod
    def read(cls, checkpoint: EncoderCheckpoint) -> Self:
        """One label is the logit itself. Of two the second is "relevant": its logit less the first's, whose sigmoid is
        the softmax of the two. Raises CheckpointError for more labels, or shapes that do not fit.

        Source: Passage re-ranking with BERT (Nogueira and Cho, 2019).
        """
        hidden = checkpoint.config.hidden_size
        pooler = checkpoint.read("pooler.dense.weight"), checkpoint.read("pooler.dense.bias")
        weight, bias = checkpoint.read("classifier.weight"), checkpoint.read("classifier.bias")
        num_labels = len(weight)
        if num_labels not in (1, 2):
            raise CheckpointError(f"classifier has {num_labels} labels, must have 1 or 2 to rank by")
        shapes = [tuple(each.shape) for each in (*pooler, weight, bias)]
        wanted = [(hidden, hidden), (hidden,), (num_labels, hidden), (num_labels,)]
        if shapes != wanted:
            raise CheckpointError(f"pooler and classifier have shapes {shapes}, must have {wanted}")
        if num_labels == 2:
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        return cls(pooler, weight[0], float(bias[0]))

    def logits(self, states: Tensor) -> list[float]:
        """states: (pairs, hidden_size) of the first tokens. Each by itself, so that none depends on the others."""
        weight, bias = self.pooler
        return [float((weight @ state + bias).tanh() @ self.weight) + self.bias for state in states]


class CrossEncoder:
    """See Ranker. The score is the classifier's logit."""

    def __init__(
        self,
        tokenizer: EncoderTokenizer,
        network: RowEncoder,
        classifier: Classifier,
        calibration: Calibration,
        max_tokens: int,
    ) -> None:
        """max_tokens: of a pair with its frame."""
        self._tokenizer, self._network, self._classifier = tokenizer, network, classifier
        self._calibration = calibration
        self._room = max_tokens - len(tokenizer.begin) - len(tokenizer.between) - len(tokenizer.end)
        self.threshold = calibration.threshold
        self.description = f"cross-encoder, {network.precision} by {network.computed_by}"

    def prepare(self, request: RerankRequest) -> list[Pair]:
        """See Ranker."""
        check_request(request)
        (query_ids,) = self._tokenizer.encode([request.query])
        return [self._pair(query_ids, ids, request) for ids in self._tokenizer.encode(request.documents)]

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """See Ranker."""
        firsts = [pair.num_shared for pair in pairs] if self._tokenizer.second_type else None
        return self._classifier.logits(self._network.pool([pair.token_ids for pair in pairs], Pooling.CLS, firsts))

    def relevance(self, raw: float) -> float:
        """See Ranker."""
        return self._calibration.of_logit(raw)

    def _pair(self, query_ids: list[int], document_ids: list[int], request: RerankRequest) -> Pair:
        wanted = document_ids[: request.max_tokens_per_document]
        num_query, num_document = share(len(query_ids), len(wanted), self._room)
        tokenizer = self._tokenizer
        head = (*tokenizer.begin, *query_ids[:num_query], *tokenizer.between)
        dropped = len(query_ids) - num_query + len(document_ids) - num_document
        return Pair((*head, *wanted[:num_document], *tokenizer.end), len(head), dropped)
