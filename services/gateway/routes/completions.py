"""POST /v1/completions."""

from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.gateway.deps import GatewayDep, require_json
from services.gateway.openai.completion import Completion, CompletionRequest
from services.gateway.openapi import ASKED, responses
from services.gateway.routes.answers import streamed, whole
from services.gateway.translate.answer import collect
from services.gateway.translate.completion import to_completion, to_completion_chunks, to_completion_requests
from services.gateway.upstream.several import generate_all

router = APIRouter(tags=["generation"], dependencies=[Depends(require_json)])


@router.post(
    "/v1/completions", response_model=None, responses=responses(Completion, ASKED, events=Completion, done=True)
)
async def create_completion(body: CompletionRequest, gateway: GatewayDep) -> Response:
    """Continue texts or token ids, in one piece or as a stream."""
    head = gateway.new_head("cmpl-", body)
    requests = to_completion_requests(body, head)
    pieces = generate_all(gateway.worker, requests, timeout_s=gateway.settings.request_timeout_s)
    if body.stream:
        return await streamed(to_completion_chunks(pieces, body, head), body)
    return whole(to_completion(await collect(pieces), body, head), body)
