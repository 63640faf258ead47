"""Names of what is traced, and where spans go; decides nothing about when one begins.

Attributes of generative AI are those of OpenTelemetry's semantic conventions, status Development, of autumn 2026.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from opentelemetry.trace import NoOpTracer, Tracer

from meshkit.settings import TelemetrySettings

# spans of a worker, below the request's own
QUEUE, PREFILL, DECODE, FORWARD = "queue", "prefill", "decode", "forward"

# what is asked; the second is OpenTelemetry's word, the third has none
CHAT, EMBEDDINGS, RERANK = "chat", "embeddings", "rerank"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST: Final = "gen_ai.request"  # what the names of a request's parameters begin with
REQUEST_MODEL: Final = f"{REQUEST}.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"  # seconds
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
ERROR_TYPE: Final = "error.type"
REQUEST_ID: Final = "mesh.request_id"
ANSWER_INDEX: Final = "mesh.answer_index"
NUM_INPUTS: Final = "mesh.num_inputs"  # texts, or pairs of query and document
NUM_TOKENS: Final = "mesh.num_tokens"  # of a chunk of the prompt, or of an answer

HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.response.status_code"

PROVIDER_NAME: Final = "zhinao_mesh"


class Tracing(NamedTuple):
    """What makes a process's spans; close sends those that still wait."""

    tracer: Tracer
    close: Callable[[], None]


def open_tracing(service: str) -> Tracing:
    """Begin to send spans to OTEL_EXPORTER_OTLP_ENDPOINT, in batches on a thread of the SDK; unset, none are made."""
    if TelemetrySettings().exporter_otlp_endpoint is None:
        return Tracing(NoOpTracer(), lambda: None)
    # imported here: who traces nothing need not load an HTTP client
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("zhinao-mesh"), provider.shutdown)
