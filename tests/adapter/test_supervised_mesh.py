"""The real supervisord and watchdog around a part that is quick to start."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mesh.failure import MeshFailure
from mesh.launch import running_plan, wait_until_ready
from mesh.plan import Options, Part, Plan, save_plan
from mesh.ports import choose_block
from mesh.state import StateFolder
from mesh.status import mesh_status
from mesh.supervisord import Supervisor, write_config
from mesh.teardown import bring_down, mesh_processes

SERVER = Path(__file__).parents[1] / "fakes" / "ready_server.py"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    state = StateFolder(tmp_path / "a %(state)s 'folder' #1")
    yield state
    bring_down(state, lambda _line: None)


def start(state: StateFolder, *arguments: str, before: str = ":") -> Plan:
    """Start a mesh of one part, a shell that runs the command `before` and becomes the server."""
    port = choose_block(os.getpid(), 1)
    command = ("sh", "-c", f'{before}; exec python3 "$@"', "sh", str(SERVER), *(arguments or (str(port),)))
    part = Part("gateway-0", "gateway", 0, command, http=f"http://127.0.0.1:{port}", shm_prefix=state.shm_prefix)
    plan = Plan(Options("127.0.0.1", 1, (), {}, None), "http://127.0.0.1:1", "127.0.0.1:1", (part,))
    state.make()
    save_plan(plan, state.plan)
    write_config(plan, state)
    Supervisor(state).start()
    return plan


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 15
    while not (met := condition()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return met


def test_a_part_that_does_not_leave_in_time_is_killed(state: StateFolder) -> None:
    wait_until_ready(start(state, before="trap '' TERM"), state, lambda _name: None)
    began_s = time.monotonic()

    Supervisor(state).stop(["gateway-0"], at_most_s=0.5)

    assert 0.5 <= time.monotonic() - began_s < 10
    assert mesh_status(state).parts[0].pid is None


def test_a_part_that_waits_too_long_is_told_again(state: StateFolder) -> None:
    start(state, before="trap 'test -e told && exit; touch told' TERM; touch begun; while :; do sleep 0.05; done")
    assert wait_for((state.runtime / "begun").exists)
    began_s = time.monotonic()

    Supervisor(state).stop(["gateway-0"], patience_s=0.5, at_most_s=60)

    assert 0.5 <= time.monotonic() - began_s < 15
    assert mesh_status(state).parts[0].pid is None


def test_a_killed_part_is_started_again_and_the_restart_is_counted(state: StateFolder) -> None:
    wait_until_ready(start(state), state, lambda _name: None)
    (before,) = mesh_status(state).parts

    os.kill(before.pid or 0, signal.SIGKILL)

    assert wait_for(lambda: mesh_status(state).parts[0].restarts == 1 and mesh_status(state).parts[0].state == "ready")
    (after,) = mesh_status(state).parts
    assert (before.state, before.restarts) == ("ready", 0)
    assert after.pid not in {None, before.pid}


def test_a_child_that_outlived_its_killed_part_is_ended_before_the_next_start(state: StateFolder) -> None:
    only_once = f"if mkdir once; then python3 -c 'import time; time.sleep(600)' {state.shm_prefix}stub & fi"
    wait_until_ready(start(state, before=only_once), state, lambda _name: None)
    part = psutil.Process(mesh_status(state).parts[0].pid or 0)
    (orphan,) = part.children()

    part.kill()

    assert wait_for(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)


def test_down_leaves_no_process_and_no_file_but_logs(
    state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    wait_until_ready(start(state), state, lambda _name: None)
    said: list[str] = []

    bring_down(state, said.append)

    assert said[-1] == "the mesh is down"
    assert not any("killed" in line for line in said)
    assert mesh_processes(state) == []
    assert [path.name for path in state.path.iterdir()] == ["logs"]
    assert list(temporary.iterdir()) == []


def test_a_mesh_that_has_only_just_started_goes_at_once(state: StateFolder) -> None:
    start(state)
    began_s = time.monotonic()

    bring_down(state, lambda _line: None)

    assert time.monotonic() - began_s < 10  # no part missed its SIGTERM


def test_down_cleans_up_after_a_killed_supervisor_and_says_what_it_killed(state: StateFolder) -> None:
    wait_until_ready(start(state), state, lambda _name: None)
    supervisor = int((state.runtime / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(supervisor) or psutil.Process(supervisor).status() == psutil.STATUS_ZOMBIE)
    lost = mesh_status(state).parts[0].state
    said: list[str] = []

    bring_down(state, said.append)

    assert lost == "lost"
    assert any(line.startswith("killed what was left: python3") for line in said)
    assert mesh_processes(state) == []


def test_down_clears_a_mesh_whose_plan_cannot_be_read(state: StateFolder) -> None:
    start(state)
    state.plan.write_text("{}")

    bring_down(state, lambda _line: None)

    assert mesh_processes(state) == []
    assert not state.plan.exists()


def test_down_twice_says_that_nothing_was_running(state: StateFolder) -> None:
    said: list[str] = []

    bring_down(state, said.append)

    assert said == ["no mesh was running"]


def test_a_part_that_ends_during_its_start_is_named_with_its_last_words(state: StateFolder) -> None:
    plan = start(state, "no-port")

    with pytest.raises(MeshFailure, match=r"gateway-0 ended during its start(.|\n)*invalid literal.*no-port"):
        wait_until_ready(plan, state, lambda _name: None)


def test_what_supervisor_refuses_is_a_failure_of_the_mesh_with_its_words(state: StateFolder) -> None:
    start(state)

    with pytest.raises(MeshFailure, match=r"refuses startProcess nobody.*BAD_NAME"):
        Supervisor(state).start_again("nobody")


def test_a_running_mesh_is_found_by_its_folder(state: StateFolder) -> None:
    before = running_plan(state)
    plan = start(state)

    assert (before, running_plan(state)) == (None, plan)
