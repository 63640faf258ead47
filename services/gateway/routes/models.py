"""GET /v1/models and GET /v1/models/{id}."""

from fastapi import APIRouter

from meshkit.errors import Reason
from services.gateway.call import CURRENT
from services.gateway.catalog import ServedModel
from services.gateway.deps import GatewayDep
from services.gateway.openai.model_list import ModelBody, ModelList
from services.gateway.openapi import CLIENT, responses

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=responses(ModelList, CLIENT))
async def list_models(gateway: GatewayDep) -> ModelList:
    """All served models that the caller may use."""
    models = [model for model in gateway.catalog.models if CURRENT.get().may_use(model.id)]
    return {"object": "list", "data": [_to_body(model, gateway.started_s) for model in models]}


@router.get(
    "/v1/models/{model_id:path}", responses=responses(ModelBody, (*CLIENT, Reason.FORBIDDEN, Reason.MODEL_NOT_FOUND))
)
async def retrieve_model(model_id: str, gateway: GatewayDep) -> ModelBody:
    """One served model; its id may hold slashes."""
    model, grant = gateway.catalog.find(model_id), CURRENT.get().grant
    if grant is not None:
        grant.key.limits.check_model(model.id)
    return _to_body(model, gateway.started_s)


def _to_body(model: ServedModel, started_s: int) -> ModelBody:
    return {"id": model.id, "object": "model", "created": started_s, "owned_by": "zhinao-mesh", "kind": model.kind}
