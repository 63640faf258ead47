"""GET /v1/usage: what the caller's own key used."""

from datetime import UTC, date, datetime
from typing import Final

from fastapi import APIRouter

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.deps import GatewayDep
from services.gateway.openai.key_usage import KeyUsage
from services.gateway.openapi import CLIENT, responses
from services.gateway.tenancy.uses import first_of_month
from services.gateway.translate.key_usage import to_key_usage

router = APIRouter(tags=["models"])

_FAILURES: Final = (*CLIENT, Reason.INVALID_REQUEST, Reason.NOT_SUPPORTED)


@router.get("/v1/usage", responses=responses(KeyUsage, _FAILURES))
async def read_usage(gateway: GatewayDep, start: date | None = None, end: date | None = None) -> KeyUsage:
    """Requests and tokens by day (UTC) and model, from start to end; this month where they are not given."""
    grant = CURRENT.get().grant
    if gateway.tenancy is None or grant is None:
        raise MeshError(Reason.NOT_SUPPORTED, "usage is kept by key, and this mesh asks for no keys")
    last = end or datetime.now(UTC).date()
    first = start or first_of_month(last)
    return to_key_usage(grant.key, await gateway.tenancy.use(grant.key.id, first, last))
