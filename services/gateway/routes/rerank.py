"""POST /v1/rerank, /v2/rerank, /rerank, /v1/score and /score: forms of one scorer."""

import time
import uuid
from typing import Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.gateway.deps import Gateway, GatewayDep, require_json
from services.gateway.openapi import ASKED, responses
from services.gateway.routes.answers import whole
from services.gateway.search.rerank import RerankAnswer, RerankErrorBody, RerankRequest
from services.gateway.search.score import ScoreList, ScoreRequest
from services.gateway.search.tei import TeiErrorBody, TeiRank, TeiRerankRequest
from services.gateway.translate.rerank import (
    from_score,
    from_tei_rerank,
    to_rerank_answer,
    to_rerank_request,
    to_score_list,
    to_tei_ranks,
)
from services.gateway.translate.sent_names import SCORE, TEI_RERANK, sent_as

router = APIRouter(tags=["search"], dependencies=[Depends(require_json)])

_RERANK: Final = responses(RerankAnswer, ASKED, error=RerankErrorBody)
_TEI: Final = responses(list[TeiRank], ASKED, error=TeiErrorBody)
_SCORE: Final = responses(ScoreList, ASKED)


@router.post("/v1/rerank", response_model=None, responses=_RERANK)
async def rerank_v1(body: RerankRequest, gateway: GatewayDep) -> Response:
    """Sort documents by their relevance to a query, as Jina and Cohere's first API do."""
    return await _rerank(body, gateway, version="1")


@router.post("/v2/rerank", response_model=None, responses=_RERANK)
async def rerank_v2(body: RerankRequest, gateway: GatewayDep) -> Response:
    """Sort documents by their relevance to a query, as Cohere's second API does."""
    return await _rerank(body, gateway, version="2")


@router.post("/rerank", response_model=None, responses=_TEI)
async def rerank_tei(body: TeiRerankRequest, gateway: GatewayDep) -> Response:
    """Sort texts by their relevance to a query, as text-embeddings-inference does."""
    with sent_as(TEI_RERANK):
        response = await gateway.search.rerank(from_tei_rerank(body))
    return whole(to_tei_ranks(response, body), body)


@router.post("/score", response_model=None, responses=_SCORE)
async def score(body: ScoreRequest, gateway: GatewayDep) -> Response:
    """Score pairs of texts in the order they come; vLLM's other name for /v1/score."""
    return await create_score(body, gateway)


@router.post("/v1/score", response_model=None, responses=_SCORE)
async def create_score(body: ScoreRequest, gateway: GatewayDep) -> Response:
    """Score pairs of texts in the order they come, as vLLM does."""
    with sent_as(SCORE):
        responses = await gateway.search.rerank_all(from_score(body))
    return whole(to_score_list(responses, answer_id=_new_id("score"), created_s=int(time.time())), body)


async def _rerank(body: RerankRequest, gateway: Gateway, *, version: str) -> Response:
    response = await gateway.search.rerank(to_rerank_request(body))
    return whole(to_rerank_answer(response, body, answer_id=_new_id("rerank"), version=version), body)


def _new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"
