"""Starts a mesh of its own for a measurement, and stops it; does not know what is measured."""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ZHINAO = Path(sys.executable).with_name("zhinao")
_FIRST_PORT = 8470


@dataclass(frozen=True, slots=True)
class PrivateMesh:
    """A running mesh. host, port: of its edge. grpc: address of the chat worker's Triton. metrics: URL of its page."""

    host: str
    port: int
    grpc: str
    metrics: str
    model: str
    state: Path

    @property
    def url(self) -> str:
        """Base URL of its REST API."""
        return f"http://{self.host}:{self.port}"

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Every process of every part, by the part's name."""
        found: dict[str, list[psutil.Process]] = {}
        for part in _parts(self.state):
            process = psutil.Process(part["pid"])
            found[part["name"]] = [process, *process.children(recursive=True)]
        return found

    def pids(self) -> list[int]:
        """Every process of the mesh."""
        return [process.pid for processes in self.processes().values() for process in processes]


@contextmanager
def private_mesh(*options: str) -> Iterator[PrivateMesh]:
    """A mesh with these options of `zhinao up`. Raises CalledProcessError if it does not start."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="zhinao-bench-") as name:
        state = Path(name) / "state"
        _zhinao("up", state, "--port", str(port), "--detach", "--replicas", "embed=0,rerank=0", *options)
        try:
            (chat,) = (part for part in _parts(state) if part["kind"] == "chat")
            yield PrivateMesh("127.0.0.1", port, chat["grpc"], chat["metrics"], chat["model"], state)
        finally:
            _zhinao("down", state)


def _parts(state: Path) -> list[dict[str, Any]]:
    return json.loads(_zhinao("status", state, "--json"))["parts"]


def _zhinao(command: str, state: Path, *options: str) -> str:
    """Run `zhinao`; what it prints is returned, what it complains about is shown."""
    words = [ZHINAO, command, "--state", str(state), *options]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout


def _free_port() -> int:
    """A port that nobody listens on now."""
    for port in range(_FIRST_PORT, _FIRST_PORT + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError(f"no free port between {_FIRST_PORT} and {_FIRST_PORT + 99}")
