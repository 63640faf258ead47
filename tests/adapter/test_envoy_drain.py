"""The real Envoy with Kubernetes' configuration: what it shows to others, and how it leaves."""

import http.client
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mesh import envoy
from mesh.kubernetes import MANIFESTS, MESH
from mesh.ports import choose_block


@dataclass
class Gateway:
    """Stands in for one: it serves at once, and answers a POST when the test lets it."""

    may_answer: threading.Event = field(default_factory=threading.Event)
    is_asked: threading.Event = field(default_factory=threading.Event)

    def start(self) -> ThreadingHTTPServer:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                gateway.is_asked.set()
                assert gateway.may_answer.wait(20)
                self._answer()

            def _answer(self) -> None:
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@dataclass
class Running:
    """An Envoy in front of a stand-in for a gateway. drain: its preStop command, without the pause at its beginning."""

    mesh: envoy.NamedMesh
    gateway: Gateway
    drain: list[str]

    def ask(self, port: int, method: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except ConnectionRefusedError:
            return 0
        finally:
            connection.close()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    gateway, first = Gateway(), choose_block(os.getpid(), 4)
    server = gateway.start()
    edge, internal, admin, ops = range(first, first + 4)
    ports = {"edge_port": edge, "internal_port": internal, "admin_port": admin, "ops_port": ops}
    mesh = replace(MESH, **ports, gateway="127.0.0.1", gateway_http_port=server.server_port)
    config, script = tmp_path / "envoy.yaml", tmp_path / "drain.sh"
    config.write_text(envoy.render_named(mesh))
    text = (MANIFESTS / "base/envoy/drain.sh").read_text()
    script.write_text(text.replace(str(MESH.admin_port), str(admin)).replace("sleep 10", "sleep 0"))
    process = subprocess.Popen(envoy.command(config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = Running(mesh, gateway, ["bash", str(script)])
    try:
        wait_until(lambda: found.ask(edge, "GET", "/health") == 200)
        yield found
    finally:
        gateway.may_answer.set()
        process.terminate()
        process.wait(20)
        server.shutdown()
        server.server_close()


def test_only_readiness_and_metrics_are_shown(running: Running) -> None:
    ops = running.mesh.ops_port

    shown = {path: running.ask(ops, "GET", path) for path in ("/ready", "/stats/prometheus", "/stats", "/config_dump")}

    assert shown == {"/ready": 200, "/stats/prometheus": 200, "/stats": 404, "/config_dump": 404}
    assert running.ask(ops, "POST", "/quitquitquit") == 404


def test_a_drain_ends_when_the_last_answer_has(running: Running) -> None:
    statuses: list[int] = []
    caller = threading.Thread(target=lambda: statuses.append(running.ask(running.mesh.edge_port, "POST", "/v1/x")))
    caller.start()
    assert running.gateway.is_asked.wait(20)

    drain = subprocess.Popen(running.drain)
    with pytest.raises(subprocess.TimeoutExpired):
        drain.wait(1.5)
    running.gateway.may_answer.set()

    assert drain.wait(20) == 0
    caller.join(20)
    assert statuses == [200]
    assert running.ask(running.mesh.ops_port, "GET", "/ready") == 200, "a drain is no reason to be restarted"
