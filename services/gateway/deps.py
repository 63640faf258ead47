"""Decides what handlers are given: the joined parts of the app, and the head of a new answer."""

import secrets
import time
import uuid
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Final, cast

from fastapi import Depends, Request
from opentelemetry.trace import Tracer

from meshkit.errors import MeshError, Reason
from services.gateway.call import CURRENT
from services.gateway.catalog import Catalog
from services.gateway.metrics import Metrics
from services.gateway.openai.generation import GenerationFields
from services.gateway.settings import GatewaySettings
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.translate.generation import to_seed
from services.gateway.translate.head import Head
from services.gateway.upstream.search import Search
from services.gateway.upstream.worker import Worker

VERSION: Final = version("zhinao-mesh")
SEED_LIMIT: Final = 2**53  # a drawn seed survives clients whose only number is a double


@dataclass(frozen=True, slots=True)
class Gateway:
    """All that handlers share. tenancy: None in a mesh that asks for no keys."""

    settings: GatewaySettings
    catalog: Catalog
    worker: Worker
    search: Search
    metrics: Metrics
    started_s: int  # Unix seconds
    tenancy: Tenancy | None
    tracer: Tracer

    def new_head(self, prefix: str, body: GenerationFields) -> Head:
        """Draw what a new answer needs from clock and chance; MODEL_NOT_FOUND for an unknown model.

        prefix: of the answer's id, with what divides them.
        """
        return Head(
            id=f"{prefix}{uuid.uuid4().hex}",
            created_s=int(time.time()),
            model=self.catalog.find_kind("chat", body.model, CURRENT.get().may_use).id,
            seed=secrets.randbelow(SEED_LIMIT) if body.seed is None else to_seed(body.seed),
            version=VERSION,
            request_id=CURRENT.get().request_id,
            tenant=CURRENT.get().tenant,
        )


async def _gateway(request: Request) -> Gateway:  # async: a plain function would cost a thread hop
    return cast("Gateway", request.app.state.gateway)


GatewayDep = Annotated[Gateway, Depends(_gateway)]


async def require_json(request: Request) -> None:
    """Refuse a body that does not say it is JSON, before anything is made of it."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        said = repr(media_type) if media_type else "missing"
        raise MeshError(Reason.WRONG_CONTENT_TYPE, f"content-type must be application/json, it is {said}")
