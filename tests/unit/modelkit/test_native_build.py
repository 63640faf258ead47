"""What a build of the C++ step leaves in its folder; compiles nothing."""

from pathlib import Path

import pytest

from modelkit.native import build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The libraries of sources that are built already, one of older sources, and one that another process writes."""
    monkeypatch.setenv("CXX", "never called")
    monkeypatch.setattr(build, "_SOURCES", tmp_path)
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in (build.library_path("portable").name, "portable-0123456789abcdef.so", "avx2-0123456789abcdef.4711"):
        (folder / name).touch()
    return folder


def test_libraries_of_older_sources_are_deleted_but_not_what_another_build_is_writing(folder: Path) -> None:
    (library,) = build.build(["portable"])
    assert set(folder.iterdir()) == {library, folder / "avx2-0123456789abcdef.4711"}


def test_another_build_may_delete_older_libraries_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def unlink_twice(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as racing:
        racing.setattr(Path, "unlink", unlink_twice)
        build.build(["portable"])
    assert not (folder / "portable-0123456789abcdef.so").exists()
