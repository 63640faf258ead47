"""Joins the parts of the HTTP face, and what both faces ask; the one place where they meet."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache

import grpc
from fastapi import FastAPI
from opentelemetry.trace import NoOpTracer, Tracer
from starlette.middleware.cors import CORSMiddleware

from services.gateway.body_limit import BodyLimit
from services.gateway.boundary import Boundary
from services.gateway.catalog import Catalog
from services.gateway.deps import Gateway
from services.gateway.disconnect import CancelOnDisconnect
from services.gateway.errors import add_error_handlers
from services.gateway.key_check import KeyCheck
from services.gateway.linger import Linger
from services.gateway.metrics import Metrics
from services.gateway.openapi import document
from services.gateway.routes import (
    chat,
    completions,
    docs,
    embeddings,
    models,
    operations,
    rerank,
    responses,
    tokens,
    usage,
)
from services.gateway.settings import GatewaySettings
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.upstream.admission import Admission
from services.gateway.upstream.metered import MeteredWorker
from services.gateway.upstream.resume import ResumingWorker
from services.gateway.upstream.search import Search
from services.gateway.upstream.triton import TritonWorker
from services.gateway.upstream.worker import Worker


def join_upstream(
    channel: grpc.aio.Channel, metrics: Metrics, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Admission:
    """All that stands between the faces and that channel to the mesh. pause: waits so long for another worker."""
    return Admission(ResumingWorker(TritonWorker(channel), metrics, pause=pause), metrics)


def bare_app() -> FastAPI:
    """All routes with nothing behind them: enough to be documented."""
    app = FastAPI(
        docs_url=None,  # FastAPI's own page loads its scripts from the internet
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    for routes in (chat, completions, responses, embeddings, rerank, tokens, models, usage, operations, docs):
        app.include_router(routes.router)
    app.mount(docs.ASSETS_PATH, docs.ASSETS)
    made = cache(lambda: document(app.routes))
    app.openapi = lambda: made()
    return app


def create_app(
    settings: GatewaySettings,
    worker: Worker,
    metrics: Metrics,
    tenancy: Tenancy | None = None,
    tracer: Tracer | None = None,
) -> FastAPI:
    """The ASGI app in front of that worker; it opens nothing. tenancy: None asks for no keys; tracer: for spans."""
    tracer = tracer or NoOpTracer()
    if tenancy is not None:
        worker = MeteredWorker(worker, tenancy.meter, assumed_answer_tokens=settings.assumed_answer_tokens)
    app = bare_app()
    catalog = Catalog(settings.models)
    search = Search(catalog, worker, timeout_s=settings.request_timeout_s)
    app.state.gateway = Gateway(settings, catalog, worker, search, metrics, int(time.time()), tenancy, tracer)
    add_error_handlers(app)
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if tenancy is not None:
        app.add_middleware(KeyCheck, tenancy=tenancy)
    app.add_middleware(Boundary, metrics=metrics, tracer=tracer)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(Linger)  # added last, so outermost
    return app
