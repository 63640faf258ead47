"""Says when, where and on which code a measurement was made; knows no measurement."""

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of every report. commit: of this project, with + if files differ from it."""

    date: str
    commit: str
    cpu: str
    cpu_features: tuple[str, ...]
    num_cores: int
    memory_bytes: int
    versions: dict[str, str]

    def __str__(self) -> str:
        where = (
            f"{self.cpu} ({' '.join(self.cpu_features)}), {self.num_cores} cores, {self.memory_bytes / 2**30:.0f} GiB"
        )
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{where}; commit {self.commit}, {self.date}; {versions}"


def read_head(*packages: str) -> Head:
    """The head of a report that is made now; `packages` are those whose versions matter."""
    cpu = _cpu_words()
    flags = cpu.get("flags", "").split()
    return Head(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ"),
        commit=_git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        cpu=cpu.get("model name", platform.machine()),
        cpu_features=tuple(name for name in _FEATURES if name in flags),
        num_cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        versions={"python": platform.python_version()} | {name: version(name) for name in packages},
    )


def _cpu_words() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
