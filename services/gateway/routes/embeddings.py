"""POST /v1/embeddings, and POST /embed in TEI's form."""

from fastapi import APIRouter, Depends
from starlette.responses import Response

from services.gateway.deps import GatewayDep, require_json
from services.gateway.openai.embeddings import EmbeddingRequest
from services.gateway.routes.answers import whole
from services.gateway.search.tei import TeiEmbedRequest
from services.gateway.translate.embeddings import from_tei_embed, to_embed_request, to_embedding_list, to_vectors

router = APIRouter(dependencies=[Depends(require_json)])


@router.post("/v1/embeddings", response_model=None)
async def create_embeddings(body: EmbeddingRequest, gateway: GatewayDep) -> Response:
    """Embed one or many texts, or lists of token ids."""
    response = await gateway.search.embed(to_embed_request(body))
    return whole(to_embedding_list(response, body.encoding_format), body)


@router.post("/embed", response_model=None)
async def embed(body: TeiEmbedRequest, gateway: GatewayDep) -> Response:
    """Embed as text-embeddings-inference does: the answer is a list of vectors."""
    return whole(to_vectors(await gateway.search.embed(from_tei_embed(body))), body)
