"""A checkpoint folder appears whole or not at all."""

from pathlib import Path

import pytest

from modelkit.folder import new_folder


def test_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "model"
    with new_folder(target) as folder:
        (folder / "config.json").write_text("{}")
        assert not target.exists()
        assert folder.parent.parent == target.parent  # the same file system, so that the rename is atomic
    assert [file.name for file in target.iterdir()] == ["config.json"]
    assert list(target.parent.iterdir()) == [target]


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk"), new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        raise RuntimeError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_another_process_finished_first_stays_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(FileExistsError, match="is there already"), new_folder(target):
        target.mkdir()
        (target / "first.txt").write_text("first")
    assert [file.name for file in tmp_path.rglob("*")] == ["model", "first.txt"]


def test_files_can_be_read_by_the_others_who_share_a_cache(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as folder:
        (folder / "vocab").mkdir()
        (folder / "vocab" / "weights").touch(mode=0o600)
    assert (tmp_path / "model" / "vocab" / "weights").stat().st_mode & 0o777 == 0o644
