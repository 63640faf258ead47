"""What containers of k8s/ run: the worker's server, and the fetching of its checkpoint."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from mesh import checkpoint_fetch, triton, worker_container


def test_a_worker_becomes_the_local_meshs_server_open_to_other_pods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # and back, afterwards
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["worker_container", "embed"])
    became: list[Sequence[str]] = []
    monkeypatch.setattr(os, "execvpe", lambda _file, command, _environment: became.append(command))

    worker_container.main()

    local = triton.command("embed", worker_container.PORTS, "zhinao_")
    moved = {new for old, new in zip(local, became[0], strict=True) if old != new}
    assert moved == {"--grpc-address=0.0.0.0", "--metrics-address=0.0.0.0", "--exit-timeout-secs=600"}
    assert (Path.cwd() / triton.BACKENDS / "python" / "triton_python_backend_stub").exists()
    assert (Path.cwd() / triton.REPOSITORY / "embed" / "config.pbtxt").exists()


def test_an_images_own_triton_goes_before_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(triton.SERVER_FOLDER, str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")

    assert triton.command("chat", (1, 2, 3), "p")[0] == f"{tmp_path}/bin/tritonserver"
    assert triton.environment()["LD_LIBRARY_PATH"].endswith(":/usr/local/cuda/lib64")


def test_a_checkpoint_is_fetched_once_and_again_if_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, codes = tmp_path / "chat" / "owner" / "model", iter([1, 0])
    commands: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> object:
        assert not check
        commands.append(command)
        folder.mkdir(exist_ok=True)
        return type("Ended", (), {"returncode": next(codes)})

    monkeypatch.setattr(checkpoint_fetch.subprocess, "run", run)

    assert [checkpoint_fetch.fetch("chat", "owner/model", folder) for _ in range(3)] == [1, 0, 0]
    assert len(commands) == 2
    assert commands[0][1:3] == ["download", "owner/model"]
    assert not [word for word in commands[0] if word.endswith(".py")]


def test_the_demo_models_are_made(tmp_path: Path) -> None:
    made = [checkpoint_fetch.demo_command(kind, tmp_path)[3] for kind in ("chat", "embed", "rerank")]

    assert made == ["chat", "embed", "chat"]
