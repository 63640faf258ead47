"""Clients who leave a real mesh at random moments; `make bench-leaving` does it a thousand times."""

import asyncio

import pytest
from rich.console import Console

from bench.leaving import Run, leave_all
from bench.machine import read_head
from bench.private_mesh import PrivateMesh, Worker
from tests.e2e.conftest import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

MODELS = ("zhinao-chat", "zhinao-embed", "zhinao-rerank")


def test_clients_who_leave_leave_nothing_behind(mesh: Mesh) -> None:
    """A second is the goal on a machine of its own; a busy one gets more."""
    parts = {part["kind"]: part for part in mesh.parts() if part["model"] in MODELS}
    workers = {kind: Worker(part["grpc"], part["metrics"], part["model"]) for kind, part in parts.items()}
    left, run = PrivateMesh("127.0.0.1", mesh.port, workers, mesh.state), Run(read_head())

    asyncio.run(leave_all(left, run, num_clients=50, seed=1, console=Console(quiet=True)))

    assert run.wrong == []
    assert sum(run.left.values()) > 40
    assert run.seconds[0] < 5
