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
from services.gateway.routes import chat, completions, embeddings, models, operations, rerank
from services.gateway.settings import GatewaySettings
from services.gateway.upstream.search import Search
from services.gateway.upstream.worker import Worker


def create_app(settings: GatewaySettings, worker: Worker, metrics: Metrics) -> FastAPI:
    """The ASGI app in front of that worker; it opens nothing."""
    app = FastAPI(
        title="Zhinao Mesh",
        docs_url=None,  # its page loads scripts from the internet; /openapi.json is there
        redoc_url=None,
        redirect_slashes=False,
    )
    catalog = Catalog(settings.models)
    search = Search(catalog, worker, timeout_s=settings.request_timeout_s)
    app.state.gateway = Gateway(settings, catalog, worker, search, metrics, started_s=int(time.time()))
    for routes in (chat, completions, embeddings, rerank, models, operations):
        app.include_router(routes.router)
    add_error_handlers(app)
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Boundary, metrics=metrics)  # added last, so outermost
    return app
