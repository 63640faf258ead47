"""The real Envoy, handed over to a new one under load."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mesh import envoy
from mesh.envoy import EnvoyConfig, ModelRoute
from mesh.envoy_parent import remove_envoy_memory
from mesh.failure import MeshFailure
from mesh.ports import choose_block
from mesh.probe import Health, envoy_epoch, get_ready
from mesh.triton import SHARED_MEMORY


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 20
    while not (met := condition()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return met


class Edge:
    """An Envoy, with nobody behind it, under its parent."""

    def __init__(self, folder: Path) -> None:
        first = choose_block(40_000 + os.getpid() % 20_000, 6)
        self.edge, self.admin, self.base_id = f"127.0.0.1:{first}", f"127.0.0.1:{first + 2}", folder / "base_id"
        route = ModelRoute("a", "chat-a", folder / "a.json", has_prefix_cache=True)
        envoy.write_endpoints(route, [])
        config = EnvoyConfig("127.0.0.1", first, first + 1, first + 2, [first + 3], [first + 4], [route], folder)
        (folder / "envoy.yaml").write_text(envoy.render(config))
        command = envoy.parent_command(folder / "envoy.yaml", self.base_id)
        self.parent = subprocess.Popen([sys.executable, *command[1:]])
        assert wait_for(lambda: get_ready(self.admin) is Health.READY)

    def ask(self) -> int:
        """The status of an answer, which Envoy gives itself."""
        connection = http.client.HTTPConnection(self.edge, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    edge = Edge(tmp_path)
    yield edge
    edge.parent.terminate()
    edge.parent.wait(20)
    remove_envoy_memory(edge.base_id)  # a parent that was killed could not


def test_a_new_envoy_takes_over_and_no_connection_is_refused(edge: Edge) -> None:
    over, answers = threading.Event(), list[int]()

    def keep_asking() -> None:
        while not over.is_set():
            answers.append(edge.ask())

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        for epoch in (1, 2):
            edge.parent.send_signal(signal.SIGHUP)
            assert wait_for(lambda epoch=epoch: envoy_epoch(edge.admin) == epoch)
    finally:
        over.set()
        asking.join()

    assert set(answers) == {503}  # there is no gateway
    assert len(answers) > 5


def test_its_end_leaves_no_process_and_no_memory(edge: Edge) -> None:
    base_id = edge.base_id.read_text().strip()
    children = psutil.Process(edge.parent.pid).children()
    memory = list(SHARED_MEMORY.glob(f"envoy_shared_memory_{base_id}*"))

    edge.parent.terminate()

    assert edge.parent.wait(20) == 0
    assert len(children) == len(memory) == 1
    assert not any(child.is_running() for child in children)
    assert list(SHARED_MEMORY.glob(f"envoy_shared_memory_{base_id}*")) == []


def test_an_envoy_that_dies_ends_its_parent_so_that_supervisor_sees_it(edge: Edge) -> None:
    (child,) = psutil.Process(edge.parent.pid).children()

    child.kill()

    assert edge.parent.wait(20) == 1


def test_a_parent_that_is_killed_takes_its_envoy_along(edge: Edge) -> None:
    (child,) = psutil.Process(edge.parent.pid).children()

    edge.parent.kill()

    assert wait_for(lambda: not child.is_running())


def test_a_configuration_that_envoy_refuses_is_told_with_its_words(tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text("static_resources: { listeners: 5 }")

    with pytest.raises(MeshFailure, match=r"refuses(.|\n)*listeners"):
        envoy.check(config)
