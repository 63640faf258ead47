"""Decides which files are the project's own; reads them and judges nothing."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "cli", "mesh", "meshkit", "modelkit", "services", "workerkit")


def modules(*packages: str) -> Iterator[tuple[str, ast.Module]]:
    """Path from the root and syntax tree of every module of these packages."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def tracked_files(*patterns: str) -> list[Path]:
    """What git keeps, by git's own patterns; `*.py` means in every folder."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
