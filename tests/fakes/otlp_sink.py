"""Stands in for an OpenTelemetry collector: takes spans over OTLP/HTTP in protobuf and keeps them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpSink:
    """url: what OTEL_EXPORTER_OTLP_ENDPOINT is set to. spans: all that came, with the name of the service."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                sink._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def of_trace(self, trace_id: str, names: set[str], timeout_s: float = 15) -> dict[str, Span]:
        """Wait until spans of these names of a trace came, and return those of the trace by name."""
        deadline = time.monotonic() + timeout_s
        found: dict[str, Span] = {}
        while not names <= found.keys():
            assert time.monotonic() < deadline, f"of {names} only {set(found)} came"
            time.sleep(0.02)
            found = {span.name: span for _, span in list(self.spans) if span.trace_id.hex() == trace_id}
        return found

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            names = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            self.spans += [(names[0], span) for scope in resource.scope_spans for span in scope.spans]

    @contextmanager
    def serve(self) -> Iterator["OtlpSink"]:
        """Listen until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
