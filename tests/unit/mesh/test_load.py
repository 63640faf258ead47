"""What a metrics page says of a worker's load."""

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

from mesh.load import Load, read_load

CHAT = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="a"} 2
vllm:num_requests_waiting{model_name="a"} 1
vllm:kv_cache_usage_perc{model_name="a"} 0.25
"""
SEARCH = b"""mesh_requests_waiting{model_name="e"} 7
mesh_requests_in_progress{model_name="e"} 9
"""


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Makes a page; gives its URL."""
    servers: list[http.server.HTTPServer] = []

    def start(page: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, format: str, *args: object) -> None:
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/metrics"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("page", "load"),
    [(CHAT, Load(2, 1, 0.25)), (SEARCH, Load(2, 7, None)), (b"other 1\n", None), (b"vllm:x nonsense\n", None)],
)
def test_the_load_is_read_from_the_page(page: bytes, load: Load | None, serve: Callable[[bytes], str]) -> None:
    assert read_load(serve(page)) == load


def test_a_worker_that_does_not_answer_has_no_load() -> None:
    assert read_load("http://127.0.0.1:1/metrics") is None
