"""Joins the parts of the HTTP face; the one place where they meet."""

import time

from fastapi import FastAPI

from services.gateway.body_limit import BodyLimit
from services.gateway.boundary import Boundary
from services.gateway.catalog import Catalog
from services.gateway.deps import Gateway
from services.gateway.disconnect import CancelOnDisconnect
from services.gateway.errors import add_error_handlers
from services.gateway.metrics import Metrics
from services.gateway.routes import chat, completions, models, operations
from services.gateway.settings import GatewaySettings
from services.gateway.upstream.worker import Worker


def create_app(settings: GatewaySettings, worker: Worker, metrics: Metrics) -> FastAPI:
    """The ASGI app in front of that worker; it opens nothing."""
    app = FastAPI(
        title="Zhinao Mesh",
        docs_url=None,  # its page loads scripts from the internet; /openapi.json is there
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = Gateway(settings, Catalog(settings.models), worker, metrics, started_s=int(time.time()))
    for router in (chat.router, completions.router, models.router, operations.router):
        app.include_router(router)
    add_error_handlers(app)
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Boundary, metrics=metrics)  # added last, so outermost
    return app
