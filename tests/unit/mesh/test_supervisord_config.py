"""Supervisor's configuration."""

from dataclasses import replace
from pathlib import Path

from mesh.plan import Model, Options, Part, Plan
from mesh.state import StateFolder
from mesh.supervisord import AUTOSCALER, Supervisor, config_text, write_config

PARTS = (
    Part("w-0", "chat", 0, ("tritonserver",), model="w"),
    Part("gateway-0", "gateway", 0, ("python3",)),
    Part("envoy", "envoy", 0, ("envoy",)),
)
PLAN = Plan(Options("127.0.0.1", 8360, (Model("w", "chat", "/w"),), {}, None), "http://e", "127.0.0.1:1", PARTS)


def test_parts_stop_from_the_edge_inwards(tmp_path: Path) -> None:
    sections = config_text(PLAN, StateFolder(tmp_path))

    priorities = {name: int(sections[f"program:{name}"]["priority"]) for name in ("w-0", "gateway-0", "envoy")}
    assert priorities["w-0"] < priorities["gateway-0"] < priorities["envoy"]


def test_term_goes_to_the_server_alone_and_kill_to_its_stubs_too(tmp_path: Path) -> None:
    worker = config_text(PLAN, StateFolder(tmp_path))["program:w-0"]

    assert (worker["stopasgroup"], worker["killasgroup"]) == ("false", "true")


def test_an_autoscaler_runs_only_if_asked_for(tmp_path: Path) -> None:
    scaled = replace(PLAN, options=replace(PLAN.options, autoscale={"chat": 2}))

    assert f"program:{AUTOSCALER}" in config_text(scaled, StateFolder(tmp_path))
    assert f"program:{AUTOSCALER}" not in config_text(PLAN, StateFolder(tmp_path))


def test_odd_characters_in_the_folder_never_reach_the_configuration(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "100% 'odd' #folder")
    state.make()

    write_config(PLAN, state)

    assert "odd" not in state.supervisor_config.read_text()


def test_nothing_runs_in_an_empty_folder(tmp_path: Path) -> None:
    supervisor = Supervisor(StateFolder(tmp_path))

    assert not supervisor.is_running()
    assert not supervisor.is_running()
