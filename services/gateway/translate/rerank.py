"""Translates rerank and score requests of every form into one, and its scores into each form."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from meshkit.errors import MeshError, Reason
from meshkit.texts import check_text
from services.gateway.search.rerank import Document, RerankAnswer, RerankResult, RerankUsage
from services.gateway.search.rerank import RerankRequest as RerankBody
from services.gateway.search.score import ScoreList, ScoreRequest
from services.gateway.search.tei import TeiRank, TeiRerankRequest
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse, RerankScore

_DOCUMENTS_PER_UNIT: Final = 100
_MOST_QUERIES: Final = 1000  # of one request: each is a request of its own to a worker


def to_rerank_request(body: RerankBody) -> RerankRequest:
    """Cohere's or Jina's request as ours."""
    return RerankRequest(
        model=body.model or "",
        query=body.query,
        documents=map(_to_text, body.documents),
        max_tokens_per_document=body.max_tokens_per_doc,
    )


def to_rerank_answer(response: RerankResponse, body: RerankBody, *, answer_id: str, version: str) -> RerankAnswer:
    """The answer as Cohere's clients of that API version read it, and Jina's."""
    num_tokens = response.usage.prompt_tokens
    answer: RerankAnswer = {
        "id": answer_id,
        "object": "list",
        "model": response.model,
        "results": [_to_result(response, body, index) for index in _ranked(response)[: body.top_n]],
        "usage": _to_usage([response]),
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": -(-len(response.scores) // _DOCUMENTS_PER_UNIT)},
            "tokens": {"input_tokens": num_tokens, "output_tokens": 0},
        },
    }
    if response.HasField("threshold"):
        answer["threshold"] = response.threshold
    return answer


def from_tei_rerank(body: TeiRerankRequest) -> RerankRequest:
    """TEI's request as ours."""
    return RerankRequest(model=body.model or "", query=body.query, documents=body.texts)


def to_tei_ranks(response: RerankResponse, body: TeiRerankRequest) -> list[TeiRank]:
    """The answer as TEI's; MeshError if a text had to be cut and the request forbids it."""
    if body.truncate is False:
        for index, score in enumerate(response.scores):
            if score.truncated_tokens:
                over = score.truncated_tokens
                message = f"query and texts[{index}] are {over} tokens too long together, and truncate is false"
                raise MeshError(Reason.PROMPT_TOO_LONG, message, param="truncate")
    return [_to_tei_rank(response.scores[index], body, index) for index in _ranked(response)]


def from_score(body: ScoreRequest) -> list[RerankRequest]:
    """vLLM's request as ours: one for each run of pairs with one first text.

    MeshError if the lists do not pair, hold a text that cannot be scored, or more runs than one client may ask for at
    once.
    """
    queries, documents = body.text_1, body.text_2
    _check_texts(queries, documents)
    if len(queries) == 1:
        queries = queries * len(documents)
    if len(queries) != len(documents):
        message = f"text_1 holds {len(queries)} texts and text_2 {len(documents)}; text_1 must hold one, or as many"
        raise MeshError(Reason.INVALID_REQUEST, message, param="text_1")
    pairs = zip(queries, documents, strict=True)
    requests = [
        RerankRequest(
            model=body.model or "",
            query=query,
            documents=[document for _, document in run],
            max_tokens_per_document=body.max_tokens_per_doc,
        )
        for query, run in groupby(pairs, key=lambda pair: pair[0])
    ]
    if len(requests) > _MOST_QUERIES:
        message = f"text_1 holds {len(requests)} different texts in turn, at most {_MOST_QUERIES} are allowed"
        raise MeshError(Reason.INVALID_REQUEST, message, param="text_1")
    return requests


def _check_texts(queries: Sequence[str], documents: Sequence[str]) -> None:
    """What a worker would refuse too, but by the place in a run, which is none that the client knows."""
    if "" in queries:
        name = f"text_1[{queries.index('')}]"
        raise MeshError(Reason.INVALID_REQUEST, f"{name} is empty", param=name)
    for name, texts in (("text_1", queries), ("text_2", documents)):
        for index, text in enumerate(texts):
            check_text(text, f"{name}[{index}]")


def to_score_list(responses: Sequence[RerankResponse], *, answer_id: str, created_s: int) -> ScoreList:
    """The answers as vLLM's one. created_s: Unix seconds."""
    scores = [score for response in responses for score in response.scores]
    return {
        "id": answer_id,
        "object": "list",
        "created": created_s,
        "model": responses[0].model,
        "data": [{"object": "score", "index": index, "score": score.relevance} for index, score in enumerate(scores)],
        "usage": _to_usage(responses),
    }


def _ranked(response: RerankResponse) -> list[int]:
    """The documents' indices, best first; sorting is stable, so that ties keep the request's order.

    By what the model said, of which relevance is a rising function that ends in many equal ones near 0 and 1.
    """
    return sorted(range(len(response.scores)), key=lambda index: -response.scores[index].raw)


def _to_result(response: RerankResponse, body: RerankBody, index: int) -> RerankResult:
    score, document = response.scores[index], body.documents[index]
    result: RerankResult = {"index": index, "relevance_score": score.relevance, "raw_score": score.raw}
    if body.return_documents:
        result["document"] = {"text": document} if isinstance(document, str) else document
    return result


def _to_tei_rank(score: RerankScore, body: TeiRerankRequest, index: int) -> TeiRank:
    rank: TeiRank = {"index": index, "score": score.raw if body.raw_scores else score.relevance}
    if body.return_text:
        rank["text"] = body.texts[index]
    if score.truncated_tokens:
        rank["truncated_tokens"] = score.truncated_tokens
    return rank


def _to_usage(responses: Sequence[RerankResponse]) -> RerankUsage:
    num_tokens = sum(response.usage.prompt_tokens for response in responses)
    return {
        "prompt_tokens": num_tokens,
        "total_tokens": num_tokens,
        "truncated_tokens": [score.truncated_tokens for response in responses for score in response.scores],
    }


def _to_text(document: Document) -> str:
    return document if isinstance(document, str) else str(document["text"])
