"""What `zhinao up` says of a mesh that runs already, and that it ends its own though nobody reads what it says."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from cli.up import check_same, stay
from mesh.failure import MeshFailure
from mesh.plan import EdgeLimits, Model, Options
from mesh.state import StateFolder

OPTIONS = Options(host="127.0.0.1", port=8360, models=(), dtypes={}, max_model_len=None)


def test_the_same_options_are_the_same_mesh(tmp_path: Path) -> None:
    check_same(OPTIONS, replace(OPTIONS), StateFolder(tmp_path))


def test_what_differs_is_named_with_both_values(tmp_path: Path) -> None:
    with pytest.raises(MeshFailure, match="its port is 8360, not 8400"):
        check_same(OPTIONS, replace(OPTIONS, port=8400), StateFolder(tmp_path))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"models": (Model("m", "chat", "/w"),)}, "its models are none, not m=chat:/w. Stop"),
        ({"replicas": {"chat": 2, "embed": 0}}, "its replicas are none, not chat=2, embed=0. Stop"),
        ({"max_model_len": 512}, "its max_model_len is unset, not 512. Stop"),
        ({"limits": EdgeLimits(7, 5)}, "requests_per_second=unset, not max_body_bytes=7, requests_per_second=5. Stop"),
    ],
)
def test_what_differs_is_said_in_the_words_of_the_command_line(
    wanted: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(MeshFailure) as failure:
        check_same(OPTIONS, replace(OPTIONS, **wanted), StateFolder(tmp_path))

    assert said in str(failure.value)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_database_is_named_without_its_password(tmp_path: Path, swapped: bool) -> None:
    pair = OPTIONS, replace(OPTIONS, database_url="postgresql://mesh:s3cret@db/keys")

    with pytest.raises(MeshFailure, match="its database of keys is not the same") as failure:
        check_same(*(reversed(pair) if swapped else pair), StateFolder(tmp_path))

    assert "s3cret" not in str(failure.value)


class ClosedTerminal(io.StringIO):
    """A standard output that takes nothing."""

    @override
    def write(self, _text: str, /) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def _interrupted(_supervisor: object) -> bool:
    raise KeyboardInterrupt


def test_a_mesh_in_the_foreground_is_brought_down_though_its_terminal_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[StateFolder] = []

    def bring_down(state: StateFolder, say: Callable[[str], None]) -> None:
        say("stopping the gateway")
        ended.append(state)

    monkeypatch.setattr("cli.up.Supervisor.is_running", _interrupted)
    monkeypatch.setattr("cli.up.stop_autoscaler", lambda _state: None)
    monkeypatch.setattr("cli.up.bring_down", bring_down)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", ClosedTerminal())
    stay(StateFolder(tmp_path))

    assert ended == [StateFolder(tmp_path)]
