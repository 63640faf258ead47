"""POST /tokenize and /detokenize, in vLLM's form."""

from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.gateway.deps import GatewayDep, require_json
from services.gateway.openai.tokens import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest
from services.gateway.openapi import ASKED, responses
from services.gateway.routes.answers import whole
from services.gateway.translate.tokens import (
    to_detokenize_answer,
    to_detokenize_request,
    to_tokenize_answer,
    to_tokenize_request,
)

router = APIRouter(tags=["tokens"], dependencies=[Depends(require_json)])


@router.post("/tokenize", response_model=None, responses=responses(TokenizeAnswer, ASKED))
async def tokenize(body: TokenizeRequest, gateway: GatewayDep) -> Response:
    """Turn a text, or a conversation as the chat model reads it, into token ids."""
    return whole(to_tokenize_answer(await gateway.search.tokenize(to_tokenize_request(body)), body), body)


@router.post("/detokenize", response_model=None, responses=responses(DetokenizeAnswer, ASKED))
async def detokenize(body: DetokenizeRequest, gateway: GatewayDep) -> Response:
    """Turn token ids into text."""
    return whole(to_detokenize_answer(await gateway.search.detokenize(to_detokenize_request(body))), body)
