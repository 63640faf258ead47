"""Climbs a ladder of concurrencies with perf_analyzer; what it is fed and what its export says is in figures."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench.machine import RESULTS, read_head
from bench.perf_analyzer.fetch import VERSION, perf_analyzer
from bench.perf_analyzer.figures import Level, input_data, read_export, to_markdown
from bench.perf_analyzer.subjects import SUBJECTS
from bench.private_mesh import private_mesh
from bench.prompts import Prompts
from bench.wheels import FetchError

_LEVELS = (1, 2, 4, 8, 16, 32)
_LEAST_REQUESTS, _ROUNDS = 16, 4  # of a level: so many, and so many for each that is open at once


def main() -> None:
    """Measure, print a table for each kind and keep the figures as JSON."""
    parser = argparse.ArgumentParser(prog="make perf-analyzer", description="NVIDIA's perf_analyzer on every model")
    parser.add_argument("--kinds", default=",".join(SUBJECTS), help="default: %(default)s")
    parser.add_argument("--url", help="host:port of a worker's Triton (gRPC), for one kind; default: a mesh of its own")
    parser.add_argument("--levels", default=",".join(map(str, _LEVELS)), help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        command = perf_analyzer()
    except FetchError as error:
        sys.exit(f"perf-analyzer: {error}")
    head = read_head("torch", "nvidia-pytriton")
    prompts = Prompts(time.time_ns())
    found: dict[str, list[Level]] = {}
    for kind in arguments.kinds.split(","):
        with _target(kind, arguments.url) as url:
            _run(command, kind, url, prompts, 1)  # the first requests also pay for what every process does only once
            found[kind] = [_run(command, kind, url, prompts, int(level)) for level in arguments.levels.split(",")]
        sys.stdout.write(f"{kind}: {SUBJECTS[kind].work}\n\n{to_markdown(found[kind])}\n")
    RESULTS.mkdir(exist_ok=True)
    levels = {kind: list(map(asdict, each)) for kind, each in found.items()}
    words = {"head": asdict(head), "perf_analyzer": VERSION, "levels": levels}
    (RESULTS / "perf_analyzer.json").write_text(json.dumps(words, indent=2) + "\n")
    sys.stdout.write(f"{head}; perf_analyzer {VERSION}\n")


@contextmanager
def _target(kind: str, url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with private_mesh("--max-model-len", "4096", kinds=[kind]) as mesh:
        yield mesh.workers[kind].grpc


def _run(command: list[str], kind: str, url: str, prompts: Prompts, concurrency: int) -> Level:
    """One level, on texts that nobody has seen."""
    subject = SUBJECTS[kind]
    count = max(_LEAST_REQUESTS, _ROUNDS * concurrency)
    with tempfile.TemporaryDirectory(prefix="zhinao-bench-") as name:
        requests, export = Path(name) / "requests.json", Path(name) / "export.json"
        requests.write_text(json.dumps(input_data([subject.ask(prompts) for _ in range(count)])))
        options = [
            *("-m", kind, "-u", url, "-i", "grpc", *subject.options, "--input-data", str(requests)),
            *("--request-count", str(count), "--concurrency-range", str(concurrency)),
            *("--profile-export-file", str(export)),
        ]
        done = subprocess.run([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"perf-analyzer: it ended with exit code {done.returncode}:\n{done.stdout}")
        # It writes the bytes of tensors as they are, only escaped: latin-1 keeps each.
        return read_export(json.loads(export.read_text("latin-1")), subject.num_tokens)


if __name__ == "__main__":
    main()
