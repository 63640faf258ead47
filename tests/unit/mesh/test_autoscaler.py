"""Several models that scale at once: none waits for another."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from mesh.autoscale import Autoscaler, Rule
from mesh.autoscaler import Scaling
from mesh.layout import Layout
from mesh.load import Load
from mesh.plan import Model, Options, Plan, load_plan, save_plan
from mesh.ports import BLOCK_LEN, choose_block
from mesh.state import StateFolder
from mesh.supervisord import ProcessState

MODELS = (Model("c", "chat", "/c"), Model("e", "embed", "/e"))
OPTIONS = Options("127.0.0.1", 8360, MODELS, {"chat": "auto", "embed": "auto"}, None, replicas={"chat": 2})


class World:
    """Processes that run until they are told to stop, and what workers' pages say. busy: names of workers."""

    def __init__(self, state: StateFolder) -> None:
        self.state = state
        self.stopped: set[str] = set()
        self.stay: set[str] = set()  # whatever they are told
        self.busy: set[str] = set()
        self.loads: dict[str, float] = {"c": 0.0, "e": 0.0}
        self.now_s = 0.0

    @property
    def plan(self) -> Plan:
        plan = load_plan(self.state.plan)
        assert plan is not None
        return plan

    def names(self) -> list[str]:
        return sorted(part.name for part in self.plan.workers)

    def page(self, url: str | None) -> Mapping[str, float] | None:
        model = next(part.model for part in self.plan.workers if part.metrics == url)
        return {"load": self.loads[str(model)]}

    # What a Supervisor does.
    def begin_to_stop(self, names: Iterable[str]) -> None:
        self.stopped |= set(names) - self.stay

    def states(self) -> Mapping[str, ProcessState]:
        return {name: ProcessState("RUNNING", None if name in self.stopped else 1) for name in self.names()}

    def follow_config(self) -> None:
        pass


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    state = StateFolder(tmp_path / "state")
    state.claim()
    state.make()
    world = World(state)
    save_plan(Layout(OPTIONS, state, choose_block(8360, BLOCK_LEN)).plan(), state.plan)
    monkeypatch.setattr("mesh.scale.Supervisor", lambda _: world)
    monkeypatch.setattr("mesh.autoscaler.running_plan", lambda _: world.plan)
    monkeypatch.setattr("mesh.autoscaler.read_metrics", world.page)
    monkeypatch.setattr("mesh.scale.listed_ports", lambda *_: set())
    monkeypatch.setattr("mesh.drain.read_load", lambda url: Load(int(_name(world.plan, url) in world.busy), 0, None))
    monkeypatch.setattr("time.monotonic", lambda: world.now_s)
    return world


def _name(plan: Plan, url: str | None) -> str:
    return next(part.name for part in plan.workers if part.metrics == url)


@pytest.fixture
def look(world: World) -> Callable[..., list[str]]:
    """Looks so often, each time some seconds later; gives the names of the workers there are then."""
    rule = Rule("load", 1)
    scaling = Scaling(world.state, {model.id: Autoscaler((rule,), 1, 3, down_period_s=10) for model in MODELS})

    def later(times: int = 1) -> list[str]:
        for _ in range(times):
            world.now_s += 6.0
            scaling.look()
        return world.names()

    return later


def test_a_model_grows_while_anothers_worker_still_drains(world: World, look: Callable[..., list[str]]) -> None:
    world.busy = {"c-1"}
    look(2)
    assert look() == ["c-0", "c-1", "e-0"] and [part.name for part in world.plan.leaving] == ["c-1"]

    world.loads["e"] = 2.0
    during = look()
    world.loads["e"] = 1.0
    world.busy.clear()
    after = look()

    assert during == ["c-0", "c-1", "e-0", "e-1"]
    assert after == ["c-0", "e-0", "e-1"]


def test_a_worker_that_is_slow_to_end_holds_up_nobody(world: World, look: Callable[..., list[str]]) -> None:
    world.stay = {"c-1"}
    look(3)

    world.loads["e"] = 2.0

    assert look() == ["c-0", "c-1", "e-0", "e-1"]
    world.loads["e"] = 1.0
    world.stay.clear()
    assert look() == ["c-0", "e-0", "e-1"]


def test_a_model_with_no_room_to_grow_lets_others_scale(
    world: World, look: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.loads = {"c": 1.0, "e": 2.0}
    assert look() == ["c-0", "c-1", "e-0", "e-1"]
    monkeypatch.setattr("mesh.layout.MAX_WORKERS", 4)

    world.loads = {"c": 2.0, "e": 0.0}
    look(3)

    assert look() == ["c-0", "c-1", "c-2", "e-0"]
