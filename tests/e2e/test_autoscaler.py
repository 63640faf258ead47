"""A local mesh that gets more work than one worker does in time."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Mesh, free_port, wait_until, zhinao

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TEXT = "The harbour sends grain to the mountain villages every summer. " * 12


@pytest.fixture
def scaled(demo_embed_model: Path, tmp_path: Path) -> Iterator[Mesh]:
    port, state = free_port(), tmp_path / "state"
    words = ("--port", str(port), "--state", str(state), "--model", f"e=embed:{demo_embed_model}")
    try:
        zhinao("up", "--detach", *words, "--replicas", "chat=0,rerank=0", "--autoscale", "embed=2")
        yield Mesh(f"http://127.0.0.1:{port}", state, {"e": demo_embed_model})
    finally:
        zhinao("down", "--state", str(state))


def test_a_queue_that_grows_old_brings_a_second_worker_and_fails_no_request(scaled: Mesh) -> None:
    over = threading.Event()

    def keep_asking(number: int) -> set[int]:
        body = json.dumps({"input": [f"{number} {index} {TEXT}" for index in range(64)]})
        statuses: set[int] = set()
        while not over.is_set():
            statuses.add(scaled.post("/v1/embeddings", body).status_code)
        return statuses

    def two_serve() -> bool:
        return [part["serving"] for part in scaled.parts() if part["model"]] == [True, True]

    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(keep_asking, number) for number in range(8)]
        try:
            came = wait_until(two_serve, 90)
        finally:
            over.set()
        statuses = set().union(*(each.result() for each in asking))

    assert came, (scaled.state / "logs" / "autoscaler.log").read_text()
    assert statuses == {200}
    assert httpx.get(f"{scaled.url}/ready").status_code == 200
