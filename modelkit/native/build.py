"""Compiles the C++ step, one library for each instruction set this machine has; knows nothing of models."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

_SOURCES: Final = Path(__file__).resolve().parent
_FLAGS: Final = ("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-ffp-contract=off", "-Wall", "-Wextra")
# gcc's own AVX-512 headers trip this warning
_QUIET: Final = ("-Wno-maybe-uninitialized", "-Wno-psabi")

# What each library needs from the processor (Linux' names in /proc/cpuinfo) and from the compiler, best first.
INSTRUCTION_SETS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "amx": (
            *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"),
            *("amx_tile", "amx_int8", "amx_bf16", "f16c", "fma"),
        ),
        "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "f16c", "fma"),
        "avx2": ("avx2", "f16c", "fma"),
        "portable": (),
    }
)

_COMPILER_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"amx_tile": "amx-tile", "amx_int8": "amx-int8", "amx_bf16": "amx-bf16"}
)


class BuildError(RuntimeError):
    """The compiler failed; the message holds what it said."""


def available() -> list[str]:
    """The instruction sets that this machine can run, best first."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if platform.machine() == "x86_64" and cpuinfo.exists() else set[str]()
    return [name for name, needed in INSTRUCTION_SETS.items() if flags.issuperset(needed)]


def library_path(name: str) -> Path:
    """Where the library for an instruction set lies once it is built; another source has another path."""
    digest = hashlib.sha256("".join(_FLAGS).encode())
    for source in sorted(_SOURCES.glob("*.h")) + sorted(_SOURCES.glob("*.cpp")):
        digest.update(source.read_bytes())
    return _SOURCES / "lib" / f"{name}-{digest.hexdigest()[:16]}.so"


def build(names: Iterable[str] | None = None) -> list[Path]:
    """Compile what is not there yet of these instruction sets, by default those that this machine can run.

    Libraries of older sources are deleted. Returns the libraries, best first; none when there is no compiler.
    Raises BuildError.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return []
    wanted = {name: library_path(name) for name in (available() if names is None else names)}
    for old in set((_SOURCES / "lib").glob("*.so")) - set(wanted.values()):
        old.unlink(missing_ok=True)  # another build may run beside this one
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(_compile, compiler), wanted, wanted.values()))
    return list(wanted.values())


def _compile(compiler: str, name: str, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    machine = [f"-m{_COMPILER_NAMES.get(flag, flag.replace('_', ''))}" for flag in INSTRUCTION_SETS[name]]
    sources = [str(source) for source in sorted(_SOURCES.glob("*.cpp"))]
    command = [compiler, *_FLAGS, *_QUIET, *machine, *sources, "-o", str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own sources)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    unfinished.rename(target)  # whoever looks sees all of it or nothing


def main() -> int:
    """Build, and say what was built; `--all` is for images, which run on other machines than they are built on."""
    try:
        libraries = build(INSTRUCTION_SETS if "--all" in sys.argv[1:] else None)
    except BuildError as error:
        sys.stderr.write(f"native: {error}\n")
        return 1
    names = ", ".join(library.stem.split("-")[0] for library in libraries)
    sys.stdout.write(f"native: built for {names}\n" if names else "native: no C++ compiler; the plain path serves\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
