"""Joins a ranker with Triton: a request's documents become pairs with its query, and scores of pairs its response."""

import logging
from collections.abc import Sequence

from meshkit.wire import Operation
from modelkit.threads import use_threads
from services.rerank_worker.codec import Score, decode_request, encode_response
from services.rerank_worker.ranker import Ranker, load_ranker
from services.rerank_worker.request import Pair
from services.rerank_worker.settings import RerankSettings
from workerkit.prepared import Prepared
from workerkit.triton import load
from workerkit.unary import UnaryAdapter

log = logging.getLogger(__name__)


class RerankModel:
    """See UnaryModel."""

    def __init__(self, ranker: Ranker, settings: RerankSettings) -> None:
        self._ranker = ranker
        self._settings = settings

    def prepare(self, data: bytes) -> Prepared[Pair, float]:
        """See UnaryModel."""
        settings, relevance = self._settings, self._ranker.relevance
        request = decode_request(data, model_id=settings.model_id, max_documents=settings.max_documents)
        pairs = self._ranker.prepare(request)

        def encode(raw_scores: Sequence[float]) -> bytes:
            return encode_response(
                [Score(relevance(raw), raw, p.truncated_tokens) for raw, p in zip(raw_scores, pairs, strict=True)],
                num_tokens=sum(len(pair.token_ids) for pair in pairs),
                model=settings.model_id,
                threshold=self._ranker.threshold,
            )

        return Prepared(pairs, encode)

    def run(self, items: Sequence[Pair]) -> Sequence[float]:
        """See UnaryModel."""
        return self._ranker.score(items)

    def use_threads(self, count: int) -> None:
        """See UnaryModel."""
        use_threads(count)


def open_adapter() -> UnaryAdapter[Pair, float]:
    """Load the model that the environment names and start its threads; a failure becomes Triton's load error."""

    def build() -> UnaryAdapter[Pair, float]:
        settings = RerankSettings()  # pyright: ignore[reportCallIssue]  (the environment fills it)
        ranker = load_ranker(settings.model_path, settings.dtype, max_tokens=settings.max_tokens)
        log.info("%s loaded from %s: %s", settings.model_id, settings.model_path.name, ranker.description)
        model = RerankModel(ranker, settings)
        adapter = UnaryAdapter(model, Operation.RERANK, settings)
        adapter.start()
        return adapter

    return load("rerank_worker", build)
