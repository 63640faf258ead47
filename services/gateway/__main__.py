"""Entry of the gateway process: HTTP and gRPC in one loop, and a shutdown that lets answers end."""

import asyncio
import logging
import signal
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import ValidationError

from meshkit.garbage import keep_what_is_loaded
from meshkit.logs import setup_logging
from meshkit.telemetry import open_tracing
from services.gateway.app import create_app, join_upstream
from services.gateway.grpc_api.server import GrpcFace
from services.gateway.metrics import Metrics
from services.gateway.settings import GatewaySettings
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.tenancy.uses import StoreFailure
from services.gateway.upstream.admission import Admission
from services.gateway.upstream.triton import open_channel

log = logging.getLogger(__name__)

_LAST_BYTES_S: Final = 2  # after the drain, for what is still in a socket
_KEEP_ALIVE_S: Final = 3660  # longer than Envoy keeps an idle connection (an hour): it must never reuse a closed one


class _HttpServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to us: uvicorn would close the listener at once, and exit by the signal."""
        yield


async def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT; then fail readiness, still serve for leave_s, let answers end, and stop.

    A second signal cuts off the answers that are left.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        tracing = open_tracing("gateway")
        stack.callback(tracing.close)
        channel = await stack.enter_async_context(open_channel(settings.upstream))
        tenancy = await _open_tenancy(settings, stack)
        admission = join_upstream(channel, metrics)
        app = create_app(settings, admission, metrics, tenancy, tracing.tracer)
        grpc_face = GrpcFace(app.state.gateway)
        http = _http_server(settings, app)
        await grpc_face.start()
        keep_what_is_loaded()
        serving = asyncio.create_task(http.serve())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        admission.leave()
        await asyncio.sleep(settings.leave_s)  # until whoever balances has noticed
        await _drain(admission, settings.drain_timeout_s, hurry)
        admission.cut_off()
        http.should_exit = True
        await asyncio.gather(serving, grpc_face.stop(_LAST_BYTES_S))


async def _drain(admission: Admission, timeout_s: float, hurry: asyncio.Event) -> None:
    tasks = {asyncio.create_task(admission.drain(timeout_s)), asyncio.create_task(hurry.wait())}
    _, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()


async def _open_tenancy(settings: GatewaySettings, stack: AsyncExitStack) -> Tenancy | None:
    """Closed with the stack, after the last answer: what was used is written then."""
    if settings.database_url is None:
        log.warning("NO KEYS: whoever reaches %s:%d is served", settings.host, settings.http_port)
        return None
    redis_url = None if settings.redis_url is None else settings.redis_url.get_secret_value()
    return await stack.enter_async_context(Tenancy.open(settings.database_url.get_secret_value(), redis_url))


def _http_server(settings: GatewaySettings, app: FastAPI) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.http_port,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_BYTES_S,
    )
    return _HttpServer(config)


def main() -> None:
    """Read the settings and serve; a bad setting stops the start with its name."""
    try:
        settings = GatewaySettings()  # pyright: ignore[reportCallIssue] -- its fields come from the environment
    except ValidationError as error:
        problems = (f"GATEWAY_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in error.errors())
        sys.exit("\n".join(problems))
    setup_logging("gateway")
    try:
        uvloop.run(serve(settings))
    except StoreFailure as error:
        sys.exit(f"GATEWAY_DATABASE_URL: {error}")


if __name__ == "__main__":
    main()
