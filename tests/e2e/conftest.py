"""A real mesh for the tests: real Triton, Envoy and gateway, started by the command users type."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fixtures.tiny_bert import save_tiny_bert
from tests.fixtures.tiny_llama import write_tiny_llama
from tests.fixtures.tiny_reranker import write_tiny_reranker
from tests.fixtures.tiny_zhinao import write_tiny_zhinao

ZHINAO = Path(sys.executable).parent / "zhinao"
START_TIMEOUT_S = 180
CHAT_ONLY = ("--replicas", "embed=0,rerank=0")


def free_port() -> int:
    """A port that nobody listens on now, below those that clients get."""
    for port in range(9100 + os.getpid() % 500, 10_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port between 9100 and 10000")


def zhinao(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does. One that takes too long fails with the ends of the mesh's logs."""
    command = [str(ZHINAO), *words]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=START_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(f"zhinao {' '.join(words)}: {expired.output}\n{log_ends(words)}") from expired
    assert not check or result.returncode == 0, f"zhinao {' '.join(words)}:\n{result.stdout}\n{result.stderr}"
    return result


def log_ends(words: Sequence[str]) -> str:
    """The last lines of every part of the mesh that a command line names."""
    folder = Path(words[words.index("--state") + 1]) / "logs" if "--state" in words else Path()
    logs = sorted(folder.glob("*.log"))
    return "\n".join(f"== {log.name}\n" + "\n".join(log.read_text().splitlines()[-20:]) for log in logs)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask again and again until it holds; False if it never did."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@dataclass(frozen=True, slots=True)
class Mesh:
    """A running mesh. url: of its edge. checkpoints: folder of each served model."""

    url: str
    state: Path
    checkpoints: dict[str, Path]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self) -> openai.OpenAI:
        """The official client, with no retries of its own."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="EMPTY", max_retries=0, timeout=120)

    def post(self, path: str, body: str, **headers: str) -> httpx.Response:
        """Post a body as it is written."""
        return httpx.post(
            self.url + path, content=body, headers={"content-type": "application/json", **headers}, timeout=120
        )

    def parts(self) -> list[dict[str, Any]]:
        """What `zhinao status --json` says."""
        return json.loads(zhinao("status", "--state", str(self.state), "--json").stdout)["parts"]

    def metric(self, model: str, name: str) -> float:
        """One number of a worker's metrics page."""
        url = next(part["metrics"] for part in self.parts() if part["model"] == model)
        lines = [line for line in httpx.get(url).text.splitlines() if line.startswith(name)]
        assert len(lines) == 1, f"{name} is there {len(lines)} times"
        return float(lines[0].rpartition(" ")[2])


@pytest.fixture(scope="session")
def mesh(demo_chat_model: Path, demo_embed_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The demo models, each its own worker, a tiny Zhinao and a tiny llama-3 to chat with, and two tiny rerankers."""
    folder = tmp_path_factory.mktemp("mesh")
    save_tiny_bert(folder / "cross-encoder", classifier=True)
    checkpoints = {
        "zhinao-chat": ("chat", demo_chat_model),
        "tiny-zhinao": ("chat", write_tiny_zhinao(folder)),
        "tiny/llama": ("chat", write_tiny_llama(folder)),
        "zhinao-embed": ("embed", demo_embed_model),
        "zhinao-rerank": ("rerank", demo_chat_model),
        "tiny-zhinao-rerank": ("rerank", write_tiny_reranker(folder / "ranker", reads="hidden").folder),
        "tiny-cross-encoder": ("rerank", folder / "cross-encoder"),
    }
    port, state = free_port(), folder / "state"
    models = [word for id_, (kind, path) in checkpoints.items() for word in ("--model", f"{id_}={kind}:{path}")]
    try:
        fp32 = ("--embed-dtype", "fp32", "--rerank-dtype", "fp32")  # what golden files hold on any machine
        zhinao("up", "--detach", "--port", str(port), "--state", str(state), *fp32, *models)
        yield Mesh(f"http://127.0.0.1:{port}", state, {id_: path for id_, (_, path) in checkpoints.items()})
    finally:
        zhinao("down", "--state", str(state))
