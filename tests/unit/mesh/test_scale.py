"""What a change of numbers does to the plan."""

import socket
from pathlib import Path

import pytest

from mesh.drain import with_leaving
from mesh.failure import MeshFailure
from mesh.layout import MAX_WORKERS, THREADS, Layout
from mesh.plan import Model, Options, Plan
from mesh.ports import BLOCK_LEN, choose_block
from mesh.scale import numbers_by_model, with_added, with_shares, with_surplus_leaving
from mesh.state import StateFolder

MODELS = (Model("a", "chat", "/a"), Model("b", "chat", "/b"), Model("e", "embed", "/e"))
OPTIONS = Options("127.0.0.1", 8360, MODELS, {"chat": "auto", "embed": "auto"}, None)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(OPTIONS, StateFolder(tmp_path), choose_block(8360, BLOCK_LEN))


def test_a_kind_names_all_its_models_and_an_id_one() -> None:
    assert numbers_by_model(MODELS, {"chat": 2, "e": 3}) == {"a": 2, "b": 2, "e": 3}


@pytest.mark.parametrize(
    ("wanted", "words"), [({"rerank": 1}, "'rerank'; there are a, b, chat, e, embed"), ({"a": 0}, "a=0")]
)
def test_what_cannot_be_scaled_is_named(wanted: dict[str, int], words: str) -> None:
    with pytest.raises(MeshFailure, match=words):
        numbers_by_model(MODELS, wanted)


def test_a_mesh_without_models_says_so() -> None:
    with pytest.raises(MeshFailure, match="chat=2: this mesh has no models"):
        numbers_by_model((), {"chat": 2})


def test_new_workers_take_free_places_and_running_ones_keep_theirs(layout: Layout) -> None:
    plan = layout.plan()

    grown, added = with_added(plan, {"a": 3}, layout)

    assert [part.name for part in added] == ["a-1", "a-2"]
    assert {(part.name, part.grpc) for part in plan.parts} < {(part.name, part.grpc) for part in grown.parts}
    ports = [part.grpc for part in grown.workers]
    assert len(set(ports)) == len(ports) == 5


def test_workers_of_a_model_share_the_processors_however_their_number_changes(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))

    def threads(plan: Plan) -> dict[str, str]:
        return {part.name: part.environment[THREADS] for part in plan.workers}

    grown, added = with_added(layout.plan(), {"a": 4}, layout)
    leaving = with_leaving(grown, {"a-3", "a-2"})
    shrunk = with_shares(leaving)

    assert {part.environment[THREADS] for part in added} == {"2"}
    assert threads(grown) == {"a-0": "2", "a-1": "2", "a-2": "2", "a-3": "2", "b-0": "8", "e-0": "8"}
    assert threads(shrunk) == threads(grown) | {"a-0": "4", "a-1": "4"}


def test_a_new_worker_has_not_the_name_of_one_that_still_leaves(layout: Layout) -> None:
    grown, _ = with_added(layout.plan(), {"a": 3}, layout)

    shrunk = with_surplus_leaving(grown, {"a": 2})
    _, (added,) = with_added(shrunk, {"a": 3}, layout)
    without = with_surplus_leaving(with_leaving(grown, {"a-1"}), {"a": 1})

    assert [part.name for part in shrunk.leaving] == ["a-2"]
    assert added.name == "a-3"
    assert {part.name for part in without.leaving} == {"a-1", "a-2"}


def test_a_place_whose_port_somebody_took_is_left_out(layout: Layout) -> None:
    first_free = layout.free_slots(layout.plan().parts)[0]

    with socket.create_server(("127.0.0.1", layout.worker_ports(first_free)[2])):
        _, (added,) = with_added(layout.plan(), {"a": 2}, layout)

    assert added.grpc_port == layout.worker_ports(first_free + 1)[1]


def test_nothing_is_missing_where_there_are_enough(layout: Layout) -> None:
    plan = layout.plan()

    assert with_added(plan, {"a": 1}, layout) == (plan, [])


def test_more_workers_than_ports_are_refused(layout: Layout) -> None:
    with pytest.raises(MeshFailure, match=str(MAX_WORKERS)):
        with_added(layout.plan(), {"a": MAX_WORKERS}, layout)
