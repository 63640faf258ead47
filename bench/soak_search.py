"""Asks a private mesh 20,000 mixed embedding and rerank requests and watches its memory; knows no model."""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import httpx
import psutil
from rich.console import Console

from bench.machine import RESULTS, Head, read_head
from bench.private_mesh import PrivateMesh, private_mesh
from bench.prompts import Prompts
from bench.soak_verdict import GROWTH_LIMIT, growths

_NUM_CLIENTS: Final = 12
_SAMPLE_S: Final = 2.0
_HANG_S: Final = 120.0
_LEAVING, _INVALID = 0.05, 0.03  # shares of all requests
_LONGEST_STAY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. status: what HTTP must answer. leave_s: its client goes away after that many seconds."""

    path: str
    body: dict[str, Any]
    num_answers: int
    status: int = 200
    leave_s: float | None = None


@dataclass(frozen=True, slots=True)
class MemoryLook:
    """The RSS of every part, its processes together."""

    at_s: float
    rss_bytes: dict[str, int]


@dataclass(slots=True)
class Run:
    """Everything one run sees."""

    head: Head
    counts: dict[str, int] = field(default_factory=dict[str, int])
    wrong: list[str] = field(default_factory=list[str])
    samples: list[MemoryLook] = field(default_factory=list[MemoryLook])

    def count(self, name: str) -> None:
        """One more request to a path, or one more client that left."""
        self.counts[name] = self.counts.get(name, 0) + 1


def asks(seed: int, count: int) -> Iterator[Ask]:
    """So many requests; the same seed gives the same ones."""
    draw = random.Random(seed)  # noqa: S311  (a plan, not secrets)
    prompts = Prompts(seed)

    def text() -> str:
        return prompts.take_text(draw.choice([1, 4, 16, 64, 200]))

    for _ in range(count):
        texts = [text() for _ in range(draw.choice([1, 1, 2, 8]))]
        leave_s = draw.uniform(0, _LONGEST_STAY_S) if draw.random() < _LEAVING else None
        invalid = draw.random() < _INVALID
        if draw.random() < 0.6:
            options = {"encoding_format": draw.choice(["float", "base64"]), "truncate": "end"}
            body: dict[str, Any] = {"input": [""] if invalid else texts, **options}
            yield Ask("/v1/embeddings", body, len(texts), 400 if invalid else 200, leave_s)
        else:
            body = {"query": prompts.take_text(6), "documents": [] if invalid else texts}
            yield Ask("/v1/rerank", body, len(texts), 400 if invalid else 200, leave_s)


def problem_of(ask: Ask, status: int, text: str) -> str | None:
    """What is wrong with an answer."""
    if status != ask.status:
        return f"HTTP {status} instead of {ask.status}: {text[:200]}"
    body = json.loads(text)
    found = body.get("data", body.get("results", [])) if status == 200 else []
    if status == 200 and len(found) != ask.num_answers:
        return f"{len(found)} answers instead of {ask.num_answers}"
    return None


async def _ask(client: httpx.AsyncClient, ask: Ask, run: Run) -> None:
    run.count(ask.path)
    try:
        async with asyncio.timeout(_HANG_S if ask.leave_s is None else ask.leave_s):
            response = await client.post(ask.path, json=ask.body)
        problem = problem_of(ask, response.status_code, response.text)
    except TimeoutError:
        problem = f"no answer within {_HANG_S:.0f} s" if ask.leave_s is None else None
        if ask.leave_s is not None:
            run.count("left")
    except (httpx.HTTPError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        run.wrong.append(f"{ask.path}: {problem}")


async def soak(mesh: PrivateMesh, run: Run, plan: Iterator[Ask]) -> None:
    """Ask all of the plan, and look at the memory meanwhile."""
    processes = mesh.processes()  # a part that is restarted later is an error: NoSuchProcess
    began_s = time.monotonic()
    async with httpx.AsyncClient(base_url=mesh.url, timeout=None, trust_env=False) as client:  # noqa: S113  (_ask has one)

        async def ask_on() -> None:
            for ask in plan:
                await _ask(client, ask, run)

        clients = asyncio.gather(*(ask_on() for _ in range(_NUM_CLIENTS)))
        while not clients.done():
            run.samples.append(MemoryLook(time.monotonic() - began_s, _rss_bytes(processes)))
            await asyncio.wait([clients], timeout=_SAMPLE_S)
        await clients


def _rss_bytes(processes: dict[str, list[psutil.Process]]) -> dict[str, int]:
    return {name: sum(each.memory_info().rss for each in own) for name, own in processes.items()}


def to_markdown(run: Run) -> str:
    """The table for docs/benchmarks.md."""
    lines = ["| part | RSS after warm-up, MiB | at the end, MiB | growth |", "|---|---|---|---|"]
    for each in growths(run.samples):
        before, after = each.before_bytes / 2**20, each.after_bytes / 2**20
        lines.append(f"| {each.name} | {before:.1f} | {after:.1f} | {each.ratio:+.2%} |")
    counts = ", ".join(f"{name} {count}" for name, count in run.counts.items())
    minutes = run.samples[-1].at_s / 60
    lines += ["", f"{minutes:.1f} minutes, {_NUM_CLIENTS} clients: {counts}. Wrong answers: {len(run.wrong)}.", ""]
    return "\n".join([*lines, str(run.head)]) + "\n"


def main() -> int:
    """Run, print the table and the verdict, and keep everything as JSON; 1 unless it passed."""
    parser = argparse.ArgumentParser(prog="make bench-soak-search", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the plan; default: %(default)s")
    parser.add_argument("--kinds", default="embed,rerank", help="of workers; default: %(default)s")
    options = parser.parse_args()
    run = Run(read_head("torch"))
    kinds = options.kinds.split(",")
    paths = {"/v1/embeddings": "embed", "/v1/rerank": "rerank"}
    plan = (ask for ask in asks(options.seed, options.requests) if paths[ask.path] in kinds)
    with private_mesh(kinds=kinds) as mesh:
        asyncio.run(soak(mesh, run, plan))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "soak_search.json").write_text(json.dumps(asdict(run), indent=1) + "\n")
    sys.stdout.write(to_markdown(run))
    problems = [
        f"the RSS of {growth.name} grew by {growth.ratio:.2%}"
        for growth in growths(run.samples)
        if growth.ratio >= GROWTH_LIMIT
    ] + run.wrong[:20]
    Console(stderr=True).print("missed its goal: " + "; ".join(problems) if problems else "passed", markup=False)
    return 1 if problems else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
