"""Fetches NVIDIA's perf_analyzer and the newer Debian libraries it wants, beside the machine's own; needs no root."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.wheels import FetchError, unpack_wheel
from mesh.cache import cache_folder

VERSION = "2.60.0"
_WHEEL = f"perf-analyzer=={VERSION} --hash=sha256:23ef56b107ae9233e5cf09fbdf508dd9b936a52f1bae2f63f53c8117087b3f25"
_PLATFORM = "manylinux_2_38_x86_64"  # the only one there is, and newer than Debian 12
_SUITE = "trixie"
_MIRROR = "http://deb.debian.org/debian"  # apt checks signatures
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "libssl3t64", "zlib1g", "libzstd1")


def perf_analyzer() -> list[str]:
    """The beginning of its command line; fetched the first time, some 30 MB. Raises FetchError."""
    folder = cache_folder() / "perf-analyzer" / VERSION
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            whole = Path(name) / "whole"
            whole.mkdir()
            _fetch_program(whole)
            _fetch_libraries(whole, Path(name) / "apt")
            whole.rename(folder)  # there completely or not at all
    libraries = folder / "usr" / "lib" / "x86_64-linux-gnu"
    program = folder / "perf_analyzer" / "bin" / "perf_analyzer"
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(program)]


def _fetch_program(folder: Path) -> None:
    """Its wheel, unpacked; pip would not install it here."""
    unpack_wheel(_WHEEL, folder, "--platform", _PLATFORM)
    (folder / "perf_analyzer" / "bin" / "perf_analyzer").chmod(0o755)


def _fetch_libraries(folder: Path, apt: Path) -> None:
    """The libraries, unpacked; apt keeps its lists in a folder of its own and leaves the machine's alone."""
    if not (shutil.which("apt-get") and _KEYS.exists()):
        raise FetchError(f"apt-get and {_KEYS} are needed to fetch the libraries of perf_analyzer: run it on Debian")
    (apt / "lists" / "partial").mkdir(parents=True)
    (apt / "cache" / "archives" / "partial").mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [signed-by={_KEYS}] {_MIRROR} {_SUITE} main\n")
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": apt / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "",
    }
    apt_get = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    _run([*apt_get, "update"])
    _run([*apt_get, "download", *_LIBRARIES], cwd=apt)
    for package in apt.glob("*.deb"):
        _run(["dpkg-deb", "--extract", str(package), str(folder)])


def _run(command: list[str], cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True)
    except subprocess.CalledProcessError as error:
        raise FetchError(f"{command[0]} ended with exit code {error.returncode}; what it says is above") from error
