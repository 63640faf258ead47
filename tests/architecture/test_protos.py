"""The contracts: clean by buf's rules without exceptions, compatible with the last release, generated code fresh."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.architecture.source_tree import ROOT

BUF = Path(sys.executable).with_name("buf")
RELEASED = ROOT / "protos" / "released.binpb"
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))


def buf(*arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUF, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def files_of(folder: Path) -> dict[str, str]:
    found = [path for suffix in ("*.py", "*.pyi") for path in folder.rglob(suffix)]
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_buf_lints_without_a_finding() -> None:
    result = buf("lint")

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_lint_has_no_exceptions() -> None:
    config = yaml.safe_load((ROOT / "buf.yaml").read_text())

    assert config["modules"] == [{"path": "protos"}]
    assert config["lint"] == {"use": ["STANDARD", "COMMENTS"]}
    assert config["breaking"] == {"use": ["FILE"]}
    assert [path for path in PROTOS if "buf:lint:" in path.read_text()] == []


def test_protos_are_in_bufs_format() -> None:
    result = buf("format", "--diff", "--exit-code", "protos")

    assert result.returncode == 0, result.stdout


def test_nothing_breaks_clients_of_the_last_release() -> None:
    result = buf("breaking", "--against", RELEASED)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("string model = 2;", "string model = 22;", 'field "2" with name "model"'),
        ("optional uint32 max_tokens = 1;", "optional string max_tokens = 1;", "max_tokens"),
        ("rpc Generate(", "rpc Answer(", "Generate"),
        ("ROLE_SYSTEM = 1;", "ROLE_DEVELOPER = 1;", "ROLE_SYSTEM"),
    ],
)
def test_breaking_change_is_found(tmp_path: Path, old: str, new: str, finding: str) -> None:
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    proto = tmp_path / "protos/zhinao/chat/v1/chat.proto"
    assert old in proto.read_text()
    proto.write_text(proto.read_text().replace(old, new, 1))

    result = buf("breaking", "--against", RELEASED, folder=tmp_path)

    assert result.returncode != 0
    assert finding in result.stdout


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    # Run from within make, its own flags would reach the inner one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}

    subprocess.run(["make", "generate", f"GEN={tmp_path}"], cwd=ROOT, env=environment, check=True)

    fresh, committed = files_of(tmp_path), files_of(ROOT / "gen")
    assert sorted(fresh) == sorted(committed)
    assert [name for name, text in fresh.items() if text != committed[name]] == []
