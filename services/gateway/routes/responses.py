"""POST /v1/responses."""

from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.gateway.deps import GatewayDep, require_json
from services.gateway.openai.response import ResponseBody, ResponseEvent
from services.gateway.openai.responses import ResponseRequest
from services.gateway.openapi import ASKED, responses
from services.gateway.routes.answers import streamed, whole
from services.gateway.sse import NamedEventStream
from services.gateway.translate.response_events import to_response, to_response_events
from services.gateway.translate.responses import to_response_request

router = APIRouter(tags=["generation"], dependencies=[Depends(require_json)])


@router.post("/v1/responses", response_model=None, responses=responses(ResponseBody, ASKED, events=ResponseEvent))
async def create_response(body: ResponseRequest, gateway: GatewayDep) -> Response:
    """Answer a conversation in the form of OpenAI's Responses API; nothing of it is kept."""
    head = gateway.new_head("resp_", body)
    pieces = gateway.worker.generate(to_response_request(body, head), timeout_s=gateway.settings.request_timeout_s)
    if body.stream:
        return await streamed(to_response_events(pieces, body, head), body, NamedEventStream)
    return whole(await to_response(pieces, body, head), body)
