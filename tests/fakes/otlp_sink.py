"""Stands in for an OpenTelemetry collector: takes spans over OTLP/HTTP in protobuf and keeps them."""

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True, slots=True)
class Tree:
    """A trace all of whose spans but one are below another of it. spans: by id, with the name of the service."""

    spans: dict[str, tuple[str, Span]]

    def services_from(self, name: str) -> list[str]:
        """Whose spans lie on the way from a span of that name up to the root."""
        above = next(span.span_id.hex() for _, span in self.spans.values() if span.name == name)
        services: list[str] = []
        while above in self.spans:
            service, span = self.spans[above]
            services.append(service)
            above = span.parent_span_id.hex()
        return services


class OtlpSink:
    """url: what OTEL_EXPORTER_OTLP_ENDPOINT is set to. spans: all that came, with the name of the service."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                chunked = self.headers.get("transfer-encoding") == "chunked"  # as Envoy sends
                body = self._chunks() if chunked else self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":  # as a collector sends
                    body = gzip.decompress(body)
                sink._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def _chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

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

    def tree(self, trace_id: str, caller_id: str, names: set[str], timeout_s: float = 15) -> Tree:
        """Wait until spans of these names came and all hang together below the caller's, which itself is not sent."""
        deadline = time.monotonic() + timeout_s
        while True:
            spans = {
                span.span_id.hex(): (service, span)
                for service, span in list(self.spans)
                if span.trace_id.hex() == trace_id
            }
            roots = [span for _, span in spans.values() if span.parent_span_id.hex() not in spans]
            found = {span.name for _, span in spans.values()}
            if names <= found and [root.parent_span_id.hex() for root in roots] == [caller_id]:
                return Tree(spans)
            assert time.monotonic() < deadline, f"of {names} only {found} came, below {[root.name for root in roots]}"
            time.sleep(0.02)

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
