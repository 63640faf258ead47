"""How the autoscaler gives way to a command that takes the mesh down, and what is killed when it is gone already."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from mesh import teardown
from mesh.failure import MeshFailure
from mesh.plan import Part
from mesh.state import StateFolder
from mesh.supervisord import AUTOSCALER, ProcessState
from mesh.teardown import without_autoscaler
from mesh.watch import Watch


class FakeSupervisor:
    """Runs an autoscaler."""

    running: set[str]

    def __init__(self, _state: StateFolder) -> None:
        pass

    def is_running(self) -> bool:
        return True

    def states(self) -> dict[str, ProcessState]:
        return {name: ProcessState("RUNNING", 1) for name in self.running}

    def stop(self, names: Sequence[str]) -> None:
        self.running.difference_update(names)

    def start_again(self, name: str) -> None:
        self.running.add(name)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the processes that run."""
    found = {"watchdog", AUTOSCALER}
    monkeypatch.setattr(FakeSupervisor, "running", found, raising=False)
    monkeypatch.setattr(teardown, "Supervisor", FakeSupervisor)
    return found


def test_the_autoscaler_is_gone_while_the_mesh_goes_down(tmp_path: Path, running: set[str]) -> None:
    with without_autoscaler(StateFolder(tmp_path)):
        assert running == {"watchdog"}

    assert running == {"watchdog"}


def test_a_refused_down_leaves_the_autoscaler_running(tmp_path: Path, running: set[str]) -> None:
    state = StateFolder(tmp_path)

    with state.lock(), pytest.raises(MeshFailure, match="at work"), without_autoscaler(state):
        pass

    assert AUTOSCALER in running


def test_a_refused_down_starts_no_autoscaler_where_there_was_none(tmp_path: Path, running: set[str]) -> None:
    running.remove(AUTOSCALER)
    state = StateFolder(tmp_path)

    with state.lock(), pytest.raises(MeshFailure, match="at work"), without_autoscaler(state):
        pass

    assert running == {"watchdog"}


def test_a_worker_that_ended_before_it_was_killed_does_not_end_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def kill_group(_pid: int, number: int) -> None:
        asked.append(number)
        raise ProcessLookupError

    monkeypatch.setattr(os, "killpg", kill_group)
    watch = Watch(StateFolder(tmp_path))
    monkeypatch.setattr(watch, "_pid", lambda _part: 1234)

    watch.kill(Part("chat-0", "chat", 0, ()), "failed its pings")

    assert asked == [signal.SIGKILL]
