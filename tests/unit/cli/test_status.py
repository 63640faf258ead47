"""How the status of a mesh is shown."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cli import status as shown
from mesh.load import Load
from mesh.state import StateFolder
from mesh.status import MeshStatus, PartStatus

WORKER = PartStatus(
    "chat-0", "chat", 0, None, "ready", 2, "http://127.0.0.1:1", "127.0.0.1:2", None, "chat", 4, True, Load(3, 1, 0.25)
)
GATEWAY = PartStatus(
    "gateway-0", "gateway", 0, None, "ready", 0, "http://127.0.0.1:3", "127.0.0.1:4", None, None, None, None, None
)
MESH = MeshStatus("http://127.0.0.1:8360", (WORKER, GATEWAY))

Show = Callable[[MeshStatus], str]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Show:
    def run(found: MeshStatus, *, as_json: bool = False) -> str:
        monkeypatch.setattr(shown, "mesh_status", lambda _state: found)
        shown.status(StateFolder(tmp_path), as_json)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)

    return run


def be_a_terminal(monkeypatch: pytest.MonkeyPatch, *, width: int) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))


def test_a_worker_shows_its_load_cache_and_threads_and_a_gateway_none(show: Show) -> None:
    _, columns, worker, gateway = [line.split() for line in show(MESH).splitlines()]

    assert columns[:8] == ["part", "state", "pid", "restarts", "running", "waiting", "KV", "threads"]
    assert worker == ["chat-0", "ready", "-", "2", "3", "1", "25%", "4", "-", "1", "2"]
    assert gateway == ["gateway-0", "ready", "-", "0", "-", "-", "-", "-", "-", "3", "4"]


def test_a_ready_worker_that_gets_no_calls_is_marked(show: Show) -> None:
    out = show(replace(MESH, parts=(replace(WORKER, serving=False), replace(WORKER, state="leaving", serving=False))))

    assert "ready, out" in out
    assert "leaving, out" not in out


def test_a_terminal_of_80_columns_shows_what_matters_whole_and_names_what_it_leaves_out(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_a_terminal(monkeypatch, width=80)
    worker = replace(WORKER, name="zhinao-rerank-10", restarts=12, load=Load(512, 1024, 1.0), serving=False)

    lines = show(replace(MESH, parts=(worker, GATEWAY))).splitlines()

    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["part", "state", "pid", "restarts", "running", "waiting", "KV", "memory"]
    assert lines[2].split()[:3] == ["zhinao-rerank-10", "ready,", "out"]
    assert lines[-1].strip() == "in a wider terminal: grpc, threads, http"


def test_a_name_that_is_longer_than_the_terminal_is_folded_not_cut(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    be_a_terminal(monkeypatch, width=40)

    out = show(replace(MESH, parts=(replace(WORKER, name="x" * 100),)))

    assert max(map(len, out.splitlines())) <= 40
    assert out.count("x") == 100


def test_a_pipe_gets_every_column(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")

    assert show(MESH).splitlines()[1].split() == list(shown.COLUMNS)


def test_a_lost_mesh_says_how_to_clean_up(show: Show) -> None:
    assert "zhinao down cleans up" in show(replace(MESH, parts=(replace(WORKER, state="lost"),)))
    assert "no mesh runs" in show(MeshStatus(None, ()))


def test_scripts_get_every_field(show: Show) -> None:
    (worker, _) = json.loads(show(MESH, as_json=True))["parts"]  # type: ignore[call-arg]

    assert worker["load"] == {"running": 3, "waiting": 1, "kv_usage": 0.25}
    assert (worker["threads"], worker["serving"]) == (4, True)


def test_a_watch_in_a_low_terminal_shows_first_what_is_not_ready_and_says_that_there_is_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    be_a_terminal(monkeypatch, width=120)
    monkeypatch.setenv("LINES", "8")
    parts = [replace(WORKER, name=f"chat-{number}") for number in range(20)]
    parts[19] = replace(parts[19], state="failed")
    looks = iter([replace(MESH, parts=tuple(parts))])

    def look(_state: StateFolder) -> MeshStatus:
        if (found := next(looks, None)) is None:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(shown, "mesh_status", look)
    monkeypatch.setattr(shown, "EVERY_S", 0)

    shown.watch_status(StateFolder(tmp_path))

    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out).splitlines()
    names = [line.split()[0] for line in lines if "chat-" in line]
    assert names[:5] == ["chat-19", "chat-0", "chat-1", "chat-2", "chat-3"]
    assert set(names[5:]) <= set(names[:5])  # shown again at the end
    assert any("in a higher terminal: all 20 parts" in line for line in lines)


def test_a_watch_shows_it_again_and_again_until_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    looks: list[MeshStatus] = []

    def look(_state: StateFolder) -> MeshStatus:
        if len(looks) == 2:
            raise KeyboardInterrupt
        looks.append(MESH)
        return MESH

    monkeypatch.setattr(shown, "mesh_status", look)
    monkeypatch.setattr(shown, "EVERY_S", 0)

    shown.watch_status(StateFolder(tmp_path))

    assert len(looks) == 2
    assert "chat-0" in capsys.readouterr().out
