"""The reranking worker from the request's bytes to the response's, over a ranker that counts words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import Reason
from meshkit.wire import Operation
from tests.adapter.unary_calls import answer, failure
from tests.fakes.ranker import FakeRanker
from zhinao.rerank.v1 import rerank_pb2


@pytest.fixture
def rerank(start_unary: Callable[..., Any]) -> Any:
    from services.rerank_worker.adapter import RerankModel
    from services.rerank_worker.settings import RerankSettings

    settings = RerankSettings(model_id="words", model_path=Path(), max_documents=3)
    return start_unary(RerankModel(FakeRanker(), settings), Operation.RERANK, settings)  # type: ignore[arg-type]


def test_scores_come_in_the_order_of_the_documents_with_relevance_and_threshold(rerank: Any) -> None:
    documents = ["ccc d", "aa bbbb", "nothing"]
    request = rerank_pb2.RerankRequest(query="aa bbbb", documents=documents, max_tokens_per_document=1)

    response = rerank_pb2.RerankResponse.FromString(answer(rerank, request))

    assert [score.raw for score in response.scores] == [0, 1, 0]
    assert [round(score.relevance, 3) for score in response.scores] == [0.5, 0.731, 0.5]
    assert [score.truncated_tokens for score in response.scores] == [1, 1, 0]
    assert (response.usage.prompt_tokens, response.model, response.threshold) == (9, "words", 0.75)


@pytest.mark.parametrize(
    ("data", "reason", "param", "words"),
    [
        (b"\xff", Reason.INVALID_REQUEST, None, "RerankRequest"),
        (rerank_pb2.RerankRequest(query="q").SerializeToString(), Reason.INVALID_REQUEST, "documents", "0 texts"),
        (
            rerank_pb2.RerankRequest(query="q", documents="abcd").SerializeToString(),
            *(Reason.INVALID_REQUEST, "documents", "4 texts; it must hold 1 to 3"),
        ),
        (
            rerank_pb2.RerankRequest(query="q", documents="a", model="m").SerializeToString(),
            *(Reason.MODEL_NOT_FOUND, "model", "'m'"),
        ),
    ],
)
def test_a_bad_rerank_request_is_named(rerank: Any, data: bytes, reason: Reason, param: str | None, words: str) -> None:
    error = failure(rerank, data)

    assert (error.reason, error.param) == (reason, param)
    assert words in error.message
