"""What no file of the project may hold."""

import re

from tests.architecture.source_tree import ROOT, tracked_files

# The brackets keep these patterns from finding themselves.
UNFINISHED = re.compile(r"\b(?:[T]ODO|[F]IXME|[X]XX)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt)/\w")


def test_nothing_is_left_unfinished_in_the_code() -> None:
    assert [str(path.relative_to(ROOT)) for path in tracked_files("*.py") if UNFINISHED.search(path.read_text())] == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    texts = {path: path.read_bytes().decode(errors="replace") for path in tracked_files()}

    assert [str(path.relative_to(ROOT)) for path, text in texts.items() if MACHINE_PATH.search(text)] == []
