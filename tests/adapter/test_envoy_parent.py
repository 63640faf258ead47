"""The real Envoy, handed over to a new one under load."""

import http.client
import os
import signal
import socket
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
from mesh.envoy_parent import envoy_memory, remove_envoy_memory
from mesh.failure import MeshFailure
from mesh.ports import choose_block
from mesh.probe import Health, envoy_epoch, get_ready


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 20
    while not (met := condition()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return met


class Edge:
    """An Envoy, with nobody behind it, under its parent."""

    def __init__(self, folder: Path) -> None:
        first = choose_block(40_000 + os.getpid() % 20_000, 6)
        self.edge, self.admin, self.base_id = f"127.0.0.1:{first}", f"127.0.0.1:{first + 2}", first
        route = ModelRoute("a", "chat-a", folder / "a.json", has_prefix_cache=True)
        envoy.write_endpoints(route, [])
        config = EnvoyConfig("127.0.0.1", first, first + 1, first + 2, [first + 3], [first + 4], [route], folder)
        self.config, self.internal_port = folder / "envoy.yaml", first + 1
        self.config.write_text(envoy.render(config))
        command = envoy.parent_command(self.config, self.base_id)
        self.parent = subprocess.Popen([sys.executable, *command[1:]])

    @property
    def children(self) -> list[psutil.Process]:
        """The Envoys."""
        return psutil.Process(self.parent.pid).children()

    def hand_over(self, epoch: int) -> None:
        """Return once the Envoy of that epoch serves."""
        self.parent.send_signal(signal.SIGHUP)
        assert wait_for(lambda: envoy_epoch(self.admin) == epoch)

    def ask(self) -> int:
        """The status of an answer, which Envoy gives itself."""
        connection = http.client.HTTPConnection(self.edge, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Edge]:
    edge = Edge(tmp_path)
    yield edge
    edge.parent.terminate()
    edge.parent.wait(20)
    remove_envoy_memory(edge.base_id)  # a parent that was killed could not


@pytest.fixture
def edge(starting: Edge) -> Edge:
    assert wait_for(lambda: get_ready(starting.admin) is Health.READY)
    return starting


def test_a_new_envoy_takes_over_and_no_connection_is_refused(edge: Edge) -> None:
    over, answers = threading.Event(), list[int]()

    def keep_asking() -> None:
        while not over.is_set():
            answers.append(edge.ask())

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        for epoch in (1, 2):
            edge.hand_over(epoch)
            asked = len(answers)
            assert wait_for(lambda asked=asked: len(answers) > asked + 1)  # one that began after it
    finally:
        over.set()
        asking.join()

    assert set(answers) == {503}  # there is no gateway


@pytest.mark.parametrize("failure", ["no configuration", "no port"])
def test_the_envoy_before_one_that_does_not_start_goes_on_and_may_hand_over_later(edge: Edge, failure: str) -> None:
    good, (before,) = edge.config.read_text(), edge.children
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = good.replace(f"port_value: {edge.internal_port} ", f"port_value: {other.getsockname()[1]} ")
        edge.config.write_text(taken if failure == "no port" else "static_resources: { listeners: 5 }")
        edge.parent.send_signal(signal.SIGHUP)
        assert wait_for(lambda: edge.children not in ([before], []))
        assert wait_for(lambda: edge.children == [before])

        assert edge.ask() == 503

    edge.config.write_text(good)
    edge.hand_over(1)
    assert edge.ask() == 503


def test_a_hand_over_that_is_asked_for_during_another_comes_after_it(edge: Edge) -> None:
    for _ in range(20):
        edge.parent.send_signal(signal.SIGHUP)
        assert edge.ask() == 503

    assert wait_for(lambda: (envoy_epoch(edge.admin) or 0) >= 2)
    assert edge.ask() == 503


def test_its_end_leaves_no_process_and_no_memory(edge: Edge) -> None:
    children = edge.children
    assert envoy_memory(edge.base_id).exists()

    edge.parent.terminate()

    assert edge.parent.wait(20) == 0
    assert len(children) == 1
    assert not any(child.is_running() for child in children)
    assert not envoy_memory(edge.base_id).exists()


def test_an_end_before_envoy_is_ready_leaves_no_memory_either(starting: Edge) -> None:
    assert wait_for(envoy_memory(starting.base_id).exists)

    starting.parent.terminate()

    assert starting.parent.wait(20) == 0
    assert not envoy_memory(starting.base_id).exists()


def test_an_envoy_that_dies_ends_its_parent_so_that_supervisor_sees_it(edge: Edge) -> None:
    (child,) = edge.children

    child.kill()

    assert edge.parent.wait(20) == 1


def test_a_parent_that_is_killed_takes_its_envoy_along(edge: Edge) -> None:
    (child,) = edge.children

    edge.parent.kill()

    assert wait_for(lambda: not child.is_running())


def test_a_configuration_that_envoy_refuses_is_told_with_its_words(tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text("static_resources: { listeners: 5 }")

    with pytest.raises(MeshFailure, match=r"refuses(.|\n)*listeners"):
        envoy.check(config)
