"""POST /v1/embeddings, and POST /embed in TEI's form."""

from typing import Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from meshkit.errors import Reason
from services.gateway.deps import GatewayDep, require_json
from services.gateway.openai.embeddings import EmbeddingList, EmbeddingRequest, Vector
from services.gateway.openapi import ASKED, responses
from services.gateway.routes.answers import whole
from services.gateway.search.tei import TeiEmbedRequest, TeiErrorBody
from services.gateway.translate.embeddings import from_tei_embed, to_embed_request, to_embedding_list, to_vectors
from services.gateway.translate.sent_names import TEI_EMBED, sent_as

router = APIRouter(tags=["search"], dependencies=[Depends(require_json)])

_ASKED: Final = (*ASKED, Reason.SPACE_MISMATCH)


@router.post("/v1/embeddings", response_model=None, responses=responses(EmbeddingList, _ASKED))
async def create_embeddings(body: EmbeddingRequest, gateway: GatewayDep) -> Response:
    """Embed one or many texts, or lists of token ids."""
    response = await gateway.search.embed(to_embed_request(body))
    return whole(to_embedding_list(response, body.encoding_format), body)


@router.post("/embed", response_model=None, responses=responses(list[Vector], ASKED, error=TeiErrorBody))
async def embed(body: TeiEmbedRequest, gateway: GatewayDep) -> Response:
    """Embed as text-embeddings-inference does: the answer is a list of vectors."""
    with sent_as(TEI_EMBED):
        response = await gateway.search.embed(from_tei_embed(body))
    return whole(to_vectors(response), body)
