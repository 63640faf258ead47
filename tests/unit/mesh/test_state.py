"""A mesh's folder."""

import os
from pathlib import Path

import pytest

from mesh.failure import MeshFailure
from mesh.files import write_atomically
from mesh.state import SOCKET_PATH_LIMIT, StateFolder, default_state_folder


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")

    assert default_state_folder() == Path("/xdg/zhinao-mesh")


def test_a_path_too_long_for_a_socket_gets_one_elsewhere_for_this_user_only(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / ("d" * SOCKET_PATH_LIMIT))

    state.make()

    assert len(os.fsencode(state.socket)) <= SOCKET_PATH_LIMIT
    assert state.socket.parent.stat().st_mode & 0o777 == 0o700
    state.clear()
    assert not state.socket.parent.exists()


def test_other_users_read_nothing_of_a_mesh(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "mesh")

    with state.lock(make=True):
        state.make()
    write_atomically(state.plan, b"{}")

    folders = (state.path, state.runtime, state.endpoints, state.logs)
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert state.plan.stat().st_mode & 0o777 == 0o600


def test_two_folders_never_share_names_outside_themselves(tmp_path: Path) -> None:
    one, other = StateFolder(tmp_path / "one"), StateFolder(tmp_path / "other")

    assert one.shm_prefix != other.shm_prefix


def test_clearing_leaves_the_logs_and_may_be_repeated(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    state.make()
    (state.logs / "envoy.log").write_text("what happened")
    state.plan.write_text("{}")

    state.clear()
    state.clear()

    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert (state.logs / "envoy.log").read_text() == "what happened"


def test_a_second_command_is_refused_while_the_first_holds_the_mesh(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)

    with state.lock(), pytest.raises(MeshFailure, match="another zhinao command, or the autoscaler"), state.lock():
        pass

    with state.lock():
        pass


def test_a_folder_of_other_files_is_refused_before_anything_in_it_is_removed(tmp_path: Path) -> None:
    precious = tmp_path / "run" / "precious"
    precious.mkdir(parents=True)

    with pytest.raises(MeshFailure, match="no mesh's"), StateFolder(tmp_path).lock():
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["run"]
