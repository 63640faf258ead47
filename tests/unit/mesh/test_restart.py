"""Which parts a restart takes, and in which order."""

from collections.abc import Collection
from pathlib import Path

import pytest

from mesh import restart as module
from mesh.drain import with_leaving
from mesh.layout import Layout
from mesh.plan import Model, Options, Part, Plan
from mesh.probe import Health
from mesh.restart import restart
from mesh.scale import with_added
from mesh.state import StateFolder

MODELS = (Model("a", "chat", "/a"), Model("e", "embed", "/e"))
OPTIONS = Options("127.0.0.1", 8360, MODELS, {"chat": "auto", "embed": "auto"}, None, num_gateways=2)


class FakeSupervisor:
    """Starts and stops nothing, and remembers what it was told to start."""

    started: list[str]

    def __init__(self, _state: StateFolder) -> None:
        pass

    def stop(self, names: Collection[str]) -> None:
        pass

    def start_again(self, name: str) -> None:
        self.started.append(name)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of parts in the order in which they were started, in a world where all is quick."""
    names: list[str] = []
    monkeypatch.setattr(FakeSupervisor, "started", names, raising=False)
    monkeypatch.setattr(module, "Supervisor", FakeSupervisor)
    monkeypatch.setattr(module, "drain", lambda _plan, _state: None)
    monkeypatch.setattr(module, "probe", lambda _part, _plan: Health.READY)
    monkeypatch.setattr(module, "_num_envoys", lambda _state: 1)
    monkeypatch.setattr(module, "_hand_over_envoy", lambda _plan, _state: None)
    monkeypatch.setattr(module, "save_plan", lambda _plan, _path: None)
    monkeypatch.setattr(module, "SEEN_S", 0.0)
    monkeypatch.setattr(module, "LOAD_TIMEOUT_S", 0.3)
    return names


def run(plan: Plan, state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Restart workers too, beside a watchdog that lists whoever does not leave; what was said."""

    def listed(_plan: Plan, _state: StateFolder) -> set[int]:
        return {part.grpc_port for part in plan.workers if not part.is_leaving}

    monkeypatch.setattr(module, "running_plan", lambda _state: plan)
    monkeypatch.setattr(module, "listed_ports", listed)
    said: list[str] = []
    restart(state, said.append, workers=True)
    return said


def grown(state: StateFolder) -> Plan:
    """Two workers of a, one of e."""
    layout = Layout(OPTIONS, state, 14_000)
    plan, _ = with_added(layout.plan(), {"a": 2}, layout)
    return plan


def names(parts: Collection[Part]) -> list[str]:
    return [part.name for part in parts]


def test_every_worker_and_then_every_gateway_is_restarted(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateFolder(tmp_path)
    plan = grown(state)

    said = run(plan, state, monkeypatch)

    assert started == [*names(plan.workers), "gateway-0", "gateway-1"]
    assert [line for line in said if "only worker" in line] == [
        "e-0 is its model's only worker: requests are refused while it restarts"
    ]
    assert said[-1] == "envoy was restarted"


def test_a_worker_that_leaves_is_not_waited_for_and_does_not_count(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateFolder(tmp_path)

    said = run(with_leaving(grown(state), {"a-1"}), state, monkeypatch)

    assert sorted(started) == ["a-0", "e-0", "gateway-0", "gateway-1"]
    assert "a-0 is its model's only worker: requests are refused while it restarts" in said


def test_a_gateway_is_not_stopped_while_another_one_is_starting(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, looks = StateFolder(tmp_path), [Health.STARTING, Health.NOT_READY, Health.READY]

    def probe(part: Part, _plan: Plan) -> Health:
        if part.name != "gateway-1" or not looks:
            return Health.READY
        assert "gateway-0" not in started
        return looks.pop(0)

    monkeypatch.setattr(module, "probe", probe)

    run(grown(state), state, monkeypatch)

    assert not looks
    assert started[-2:] == ["gateway-0", "gateway-1"]
