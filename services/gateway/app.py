"""Joins the parts of the HTTP face; the one place where they meet."""

import time

from fastapi import FastAPI

from services.gateway.body_limit import BodyLimit
from services.gateway.boundary import Boundary
from services.gateway.catalog import Catalog
from services.gateway.deps import Gateway
from services.gateway.disconnect import CancelOnDisconnect
from services.gateway.errors import add_error_handlers
from services.gateway.key_check import KeyCheck
from services.gateway.metrics import Metrics
from services.gateway.routes import chat, completions, embeddings, models, operations, rerank, responses, tokens, usage
from services.gateway.settings import GatewaySettings
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.upstream.metered import MeteredWorker
from services.gateway.upstream.search import Search
from services.gateway.upstream.worker import Worker


def create_app(settings: GatewaySettings, worker: Worker, metrics: Metrics, tenancy: Tenancy | None = None) -> FastAPI:
    """The ASGI app in front of that worker; it opens nothing. tenancy: None asks for no keys."""
    if tenancy is not None:
        worker = MeteredWorker(worker, tenancy.meter, assumed_answer_tokens=settings.assumed_answer_tokens)
    app = FastAPI(
        title="Zhinao Mesh",
        docs_url=None,  # its page loads scripts from the internet; /openapi.json is there
        redoc_url=None,
        redirect_slashes=False,
    )
    catalog = Catalog(settings.models)
    search = Search(catalog, worker, timeout_s=settings.request_timeout_s)
    app.state.gateway = Gateway(settings, catalog, worker, search, metrics, int(time.time()), tenancy)
    for routes in (chat, completions, responses, embeddings, rerank, tokens, models, operations, usage):
        app.include_router(routes.router)
    add_error_handlers(app)
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if tenancy is not None:
        app.add_middleware(KeyCheck, tenancy=tenancy)
    app.add_middleware(Boundary, metrics=metrics)  # added last, so outermost
    return app
