"""Decides what is left of a request once it ended: its metrics and one log line, never its text."""

import logging
import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.gateway.call import PROBES, Call

log = logging.getLogger("services.gateway.requests")

# Buckets of OpenTelemetry's gen_ai.server.request.duration and time_to_first_token, in seconds, and of
# gen_ai.client.token.usage.
_DURATION: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TOKENS: Final = tuple(4**power for power in range(14))


class Metrics:
    """The gateway's own metrics, and those of OpenTelemetry's gen_ai conventions, as Prometheus spells them.

    route is a path template or an RPC name, never a client's text; a model is a served one.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mesh_requests_total", "Requests that ended.", ["route", "code"], registry=self.registry
        )
        self.request_duration = Histogram(
            "mesh_request_duration_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_DURATION,
            registry=self.registry,
        )
        self.time_to_first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from the call to a worker to its first token.",
            ["gen_ai_request_model"],
            buckets=_FIRST_TOKEN,
            registry=self.registry,
        )
        asked = ["gen_ai_operation_name", "gen_ai_request_model"]
        self.model_duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time of a request that asked a model, from its first byte to the last of its answer.",
            asked,
            buckets=_DURATION,
            registry=self.registry,
        )
        self.tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens that a request's prompts and answers have.",
            [*asked, "gen_ai_token_type"],
            buckets=_TOKENS,
            registry=self.registry,
        )
        self.wasted_tokens = Counter(
            "mesh_wasted_tokens_total",
            "Tokens that came for answers which did not reach their client whole, by the reason of that.",
            ["reason"],
            registry=self.registry,
        )
        self.retries = Counter(
            "mesh_retries_total",
            "Times that a request was asked again after its worker was lost, by what went wrong the time before.",
            ["model", "reason"],
            registry=self.registry,
        )
        self.requests_running = Gauge(
            "mesh_requests_running", "Answers that workers are writing now.", registry=self.registry
        )

    def record(self, call: Call, *, method: str, route: str, code: str) -> None:
        """Count and log one request that ended. code is the HTTP status or the name of the gRPC one."""
        duration_s = time.perf_counter() - call.begun_s
        self.requests.labels(route, code).inc()
        self.request_duration.labels(route).observe(duration_s)
        if call.model and call.operation:
            self.model_duration.labels(call.operation, call.model).observe(duration_s)
            for kind, count in (("input", call.prompt_tokens), ("output", call.completion_tokens)):
                if count is not None:
                    self.tokens.labels(call.operation, call.model, kind).observe(count)
        fields = {
            "method": method,
            "route": route,
            "status": code,
            "ms": round(duration_s * 1000, 1),
            "request_id": call.request_id,
            "trace_id": call.trace_id,
            "model": call.model,
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": call.completion_tokens,
        }
        level = logging.DEBUG if route in PROBES else logging.INFO
        log.log(level, "request ended", extra={"fields": fields})
