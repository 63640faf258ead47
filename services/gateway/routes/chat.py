"""POST /v1/chat/completions."""

from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.gateway.deps import GatewayDep, require_json
from services.gateway.openai.chat import ChatChunk, ChatCompletion, ChatCompletionRequest
from services.gateway.openapi import ASKED, responses
from services.gateway.routes.answers import streamed, whole
from services.gateway.translate.answer import collect
from services.gateway.translate.chat import to_chat_chunks, to_chat_completion, to_chat_request

router = APIRouter(tags=["generation"], dependencies=[Depends(require_json)])


@router.post(
    "/v1/chat/completions", response_model=None, responses=responses(ChatCompletion, ASKED, events=ChatChunk, done=True)
)
async def create_chat_completion(body: ChatCompletionRequest, gateway: GatewayDep) -> Response:
    """Answer a conversation, in one piece or as a stream."""
    head = gateway.new_head("chatcmpl-", body)
    pieces = gateway.worker.generate(to_chat_request(body, head), timeout_s=gateway.settings.request_timeout_s)
    if body.stream:
        return await streamed(to_chat_chunks(pieces, head, with_usage=body.wants_usage_chunk), body)
    return whole(to_chat_completion(await collect(pieces), body, head), body)
