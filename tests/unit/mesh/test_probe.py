"""What the probes make of answers."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mesh.failure import MeshFailure
from mesh.plan import Model, ModelKind
from mesh.probe import Health, first_answer, get_ready, ping_worker

CHAT = Model("m", "chat", "/w")


@contextmanager
def serve(answer: Callable[[str], int]) -> Iterator[str]:
    """A server whose statuses the test decides by path; yields host:port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(answer(self.path))
            self.end_headers()
            self.wfile.write(json.dumps({"error": {"message": f"about {self.path}"}}).encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "health"), [(200, Health.READY), (503, Health.NOT_READY), (404, Health.NOT_READY)])
def test_only_200_is_ready(status: int, health: Health) -> None:
    with serve(lambda _path: status) as address:
        assert get_ready(address) is health


def test_a_closed_port_is_starting() -> None:
    with serve(lambda _path: 200) as address:
        pass

    assert get_ready(address) is Health.STARTING


def test_a_worker_that_does_not_listen_yet_is_starting_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began_s = time.monotonic()

    health = ping_worker(f"127.0.0.1:{port}", "chat")

    assert health is Health.STARTING
    assert time.monotonic() - began_s < 0.5  # it waits for nothing that Ctrl-C could break


@pytest.mark.parametrize(("kind", "path"), [("embed", "/v1/embeddings"), ("rerank", "/v1/rerank")])
def test_other_models_answer_where_their_kind_does(kind: ModelKind, path: str) -> None:
    with serve(lambda asked: 200 if asked == path else 404) as address:
        assert first_answer(f"http://{address}", Model("m", kind, "/w")) == path


def test_a_chat_model_answers_at_the_chat_endpoint() -> None:
    with serve(lambda _path: 200) as address:
        assert first_answer(f"http://{address}", CHAT) == "/v1/chat/completions"


def test_a_base_model_without_a_template_answers_as_a_completion() -> None:
    with serve(lambda path: 400 if "chat" in path else 200) as address:
        assert first_answer(f"http://{address}", CHAT) == "/v1/completions"


def test_a_model_that_fails_is_named_with_the_servers_words() -> None:
    with (
        serve(lambda _path: 500) as address,
        pytest.raises(MeshFailure, match=r"'m' .*HTTP 500.*about /v1/chat/completions"),
    ):
        first_answer(f"http://{address}", CHAT)
