"""GET /health, /ready, /serving, /version and /metrics: what operators and probes ask."""

import asyncio
from typing import Final, Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response
from typing_extensions import TypedDict

from meshkit.errors import MeshError, Reason
from meshkit.wire import PING_TIMEOUT_S
from services.gateway.deps import VERSION, GatewayDep
from services.gateway.errors import public_message
from services.gateway.openapi import PROBED, responses

router = APIRouter(tags=["operation"])


class Status(TypedDict):
    """The word that a probe reads."""

    status: Literal["ok", "ready", "serving"]


class Version(TypedDict):
    """Of the mesh that answers."""

    version: str


_READINESS: Final = responses(Status, (*PROBED, Reason.NOT_READY))


@router.head("/health", include_in_schema=False)  # as some balancers and monitors ask
@router.get("/health", responses=responses(Status, PROBED))
async def health() -> Status:
    """The process is alive; it says nothing of the models."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses=_READINESS)
async def ready(gateway: GatewayDep) -> Status:
    """Every model's engine answered a ping just now; 503 otherwise, and while draining."""
    pings = (gateway.worker.ping(model, timeout_s=PING_TIMEOUT_S) for model in gateway.catalog.models)
    try:
        await asyncio.gather(*pings)
    except MeshError as error:
        raise MeshError(Reason.NOT_READY, public_message(error)) from error
    return {"status": "ready"}


@router.head("/serving", include_in_schema=False)
@router.get("/serving", responses=_READINESS)
async def serving(gateway: GatewayDep) -> Status:
    """This process takes requests and will go on doing so; 503 once it was told to stop. It asks no model."""
    gateway.worker.check_staying()
    return {"status": "serving"}


@router.get("/version", responses=responses(Version, PROBED))
async def show_version() -> Version:
    """The version of this gateway, as vLLM tells its own."""
    return {"version": VERSION}


@router.get("/metrics", response_class=Response, include_in_schema=False)
async def metrics(gateway: GatewayDep) -> Response:
    """Prometheus text of this process; the edge does not pass it on."""
    return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)
