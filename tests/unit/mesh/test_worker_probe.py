"""What a kubelet asks a worker, and what it takes for an answer."""

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mesh import worker_container, worker_probe
from mesh.worker_probe import PATIENCE_S, ask
from meshkit.wire import OPERATION_PARAMETER, REQUEST_TENSOR, Operation

OK = b'data: {"model_name":"chat","model_version":"1","response":""}\n\n'
DEAD = b'data: {"error":"Stub process \'chat_0_0\' is not healthy."}\n\n'
BROKEN = b'data: {"error":"broken half-way"}\n\n'


@contextmanager
def triton(status: int, body: bytes | None) -> Iterator[int]:
    """One that answers a single request so, or never; yields its port."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            assert connection.recv(65_536).startswith(b"POST /v2/models/chat/generate_stream ")
            if body is not None:
                connection.sendall(b"HTTP/1.1 %d it\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
            while connection.recv(65_536):  # the rest of the request, until the caller leaves
                pass

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        serving = thread.submit(serve)
        yield server.getsockname()[1]
        serving.result()


def test_a_worker_that_answers_is_well() -> None:
    with triton(200, OK) as port:
        assert ask("chat", port, PATIENCE_S) is None


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, DEAD, "400: .*not healthy"),
        (200, BROKEN, "200: .*half-way"),
        (200, b"", "200: "),
        (200, None, "timed out"),
    ],
)
def test_one_that_fails_or_is_silent_is_not_and_says_why(status: int, body: bytes | None, words: str) -> None:
    with triton(status, body) as port:
        reason = ask("chat", port, 0.2 if body is None else PATIENCE_S)

    assert re.search(words, str(reason))


def test_where_nobody_listens_nobody_is_well() -> None:
    assert "refused" in str(ask("chat", 1, PATIENCE_S))


def test_the_ping_is_the_one_that_workers_know() -> None:
    assert worker_probe.PING == {REQUEST_TENSOR: "", OPERATION_PARAMETER: Operation.PING}
    assert worker_container.PORTS[0] == worker_probe.PORT
