"""Setting up a bare machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from mesh import bootstrap
from mesh.interpreter import shared_library

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("version", "has_library", "has_venv", "line"),
    [
        ((3, 12), True, True, "apt-get install python3.11 libpython3.11 python3.11-venv"),
        ((3, 11), False, True, "apt-get install libpython3.11"),
        ((3, 11), True, False, "apt-get install python3.11-venv"),
    ],
)
def test_a_missing_piece_comes_with_the_line_that_installs_it(
    version: tuple[int, int], has_library: bool, has_venv: bool, line: str
) -> None:
    assert line in str(bootstrap.missing_piece(version, has_library, has_venv))


def test_a_complete_python_misses_nothing() -> None:
    assert bootstrap.missing_piece((3, 11), has_library=True, has_venv=True) is None


def test_the_shared_library_is_the_one_of_this_python() -> None:
    library = shared_library()

    assert library is not None
    assert library.name.startswith("libpython3.11.so")


def test_bootstrap_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, mesh.bootstrap; foreign = {n.partition('.')[0] for n in sys.modules} - {'mesh', '__main__'} "
        "- set(sys.stdlib_module_names); print(sorted(foreign))"
    )
    result = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_changed_pins_ask_for_a_new_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("old pins")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / "stamp")
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    before = bootstrap.is_installed()

    (tmp_path / "pyproject.toml").write_text("new pins")

    assert (before, bootstrap.is_installed()) == (True, False)


def test_a_failed_step_shows_the_end_of_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / "install.log")

    with pytest.raises(bootstrap.SetupError, match=r"exit code 3(.|\n)*no such wheel"):
        bootstrap.run_logged("installing", [sys.executable, "-c", "print('no such wheel'); exit(3)"])
