"""Loads a private mesh for a long time with everything it takes, and watches its memory; soak_verdict judges it."""

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.machine import RESULTS, Head, read_head
from bench.private_mesh import PrivateMesh, private_mesh
from bench.soak_answers import check
from bench.soak_plan import WINDOW, Ask, Plan
from bench.soak_verdict import Sample, failures, growths

_DESCRIPTION = """
Loads a mesh of its own with a mix of everything: short and long prompts, streamed and whole, greedy and sampled,
shared prefixes, n = 3, JSON schemas, log-probabilities, stop texts, bulk requests, clients that leave, bad requests.
Every answer is checked. It passes if no answer is wrong, no part's memory grows by 2 % or more after the first fifth
of the time, and nothing is left in the engine at the end. All samples are kept in bench/results/soak.json.
"""
_EXAMPLES = """
examples:
  make bench-soak                      half an hour
  make bench-soak ARGS="--minutes 2"   a try; too short to say anything about memory
  make bench-soak ARGS="--seed 7"      other requests
"""
_NUM_CLIENTS = 12
_SAMPLE_S = 3.0
_HANG_S = 120.0
_SETTLE_S = 10.0
_KEPT_ERRORS = 50
_KV, _RUNNING, _WAITING = "vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting"


@dataclass(slots=True)
class Soak:
    """Everything one run sees. asked, left: requests by kind. errors: the first wrong answers, with their request."""

    head: Head
    minutes: float
    seed: int
    asked: dict[str, int] = field(default_factory=dict[str, int])
    left: dict[str, int] = field(default_factory=dict[str, int])
    num_errors: int = 0
    errors: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    samples: list[Sample] = field(default_factory=list[Sample])
    last: Sample | None = None

    def note_error(self, ask: Ask, problem: str, text: str) -> None:
        """Count a wrong answer, and keep its ends while they are few."""
        self.num_errors += 1
        if len(self.errors) < _KEPT_ERRORS:
            request = json.dumps(ask.body)[:2000]
            self.errors.append({"kind": ask.kind, "problem": problem, "request": request, "answer": text[-2000:]})


class Watch:
    """Looks at the processes and the metrics of a mesh."""

    def __init__(self, mesh: PrivateMesh) -> None:
        self._metrics = mesh.workers["chat"].metrics
        self._processes = mesh.processes()  # a part that is restarted later is an error: NoSuchProcess
        self._began_s = time.monotonic()

    def sample(self) -> Sample:
        """Raises NoSuchProcess if a part has been restarted."""
        memory = {name: [each.memory_info() for each in own] for name, own in self._processes.items()}
        page = httpx.get(self._metrics, trust_env=False).text
        return Sample(
            at_s=round(time.monotonic() - self._began_s, 1),
            rss_bytes={name: sum(each.rss for each in own) for name, own in memory.items()},
            shm_bytes=shutil.disk_usage("/dev/shm").used,  # noqa: S108  (where Triton keeps shared memory)
            kv_share=_metric(page, _KV),
            num_running=_metric(page, _RUNNING),
            num_waiting=_metric(page, _WAITING),
        )


def _metric(page: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{name}{{"))


async def soak(mesh: PrivateMesh, run: Soak, progress: Progress) -> None:
    """Ask for the time given, let all answers end, and look at what is left."""
    watch = Watch(mesh)
    asks = iter(Plan(run.seed, mesh.workers["chat"].model))
    until_s = time.monotonic() + run.minutes * 60
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=mesh.url, limits=limits, timeout=None, trust_env=False) as client,  # noqa: S113  (_ask has one)
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(_NUM_CLIENTS):
            tasks.create_task(_ask_on(client, asks, until_s, run))
        tasks.create_task(_watch(watch, until_s, run, progress))
    run.last = await asyncio.to_thread(_settled, watch)


def _settled(watch: Watch) -> Sample:
    """Metrics are a moment old, and the last client may just have left."""
    until_s = time.monotonic() + _SETTLE_S
    while not (sample := watch.sample()).is_idle and time.monotonic() < until_s:
        time.sleep(0.5)
    return sample


async def _ask_on(client: httpx.AsyncClient, asks: Iterator[Ask], until_s: float, run: Soak) -> None:
    while time.monotonic() < until_s:
        ask = next(asks)
        run.asked[ask.kind] = run.asked.get(ask.kind, 0) + 1
        await _ask(client, ask, run)


async def _ask(client: httpx.AsyncClient, ask: Ask, run: Soak) -> None:
    """Ask, perhaps leave, and judge the answer."""
    text = ""
    try:
        async with asyncio.timeout(_HANG_S if ask.leave_s is None else ask.leave_s):
            response = await client.post(ask.path, json=ask.body)
        text = response.text
        check(ask, response.status_code, text)
    except TimeoutError:
        if ask.leave_s is None:
            run.note_error(ask, f"no answer within {_HANG_S:.0f} s", text)
        else:
            run.left[ask.kind] = run.left.get(ask.kind, 0) + 1
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        run.note_error(ask, f"{type(error).__name__}: {error}", text)


async def _watch(watch: Watch, until_s: float, run: Soak, progress: Progress) -> None:
    task = progress.add_task("", total=run.minutes * 60)
    while (now_s := time.monotonic()) < until_s:
        sample = await asyncio.to_thread(watch.sample)
        run.samples.append(sample)
        rss_mib = sum(sample.rss_bytes.values()) / 2**20
        words = f"{sum(run.asked.values())} asked, {run.num_errors} wrong, {rss_mib:.0f} MiB, KV {sample.kv_share:.0%}"
        _save(run)  # half an hour is long: what is measured is kept
        progress.update(task, completed=sample.at_s, description=words)
        await asyncio.sleep(max(0.0, now_s + _SAMPLE_S - time.monotonic()))


def to_markdown(run: Soak) -> str:
    """The table for docs/benchmarks.md."""
    assert run.last is not None, "the soak has ended"
    asked = ", ".join(f"{kind} {count}" for kind, count in sorted(run.asked.items(), key=lambda each: -each[1]))
    lines = [
        f"| RSS, {run.minutes:g} minutes, {_NUM_CLIENTS} clients | after warm-up, MiB | at the end, MiB | growth |",
        "|---|---|---|---|",
    ]
    for each in growths(run.samples):
        before, after = each.before_bytes / 2**20, each.after_bytes / 2**20
        lines.append(f"| {each.name} | {before:.1f} | {after:.1f} | {each.ratio:+.2%} |")
    last = run.last
    shm = [f"{sample.shm_bytes / 2**20:.0f} MiB" for sample in (run.samples[0], last)]
    kv_share = max(sample.kv_share for sample in run.samples)
    lines += [
        "",
        f"{sum(run.asked.values())} requests: {asked}. {sum(run.left.values())} clients left. "
        f"Wrong answers: {run.num_errors}.",
        f"Afterwards: {last.num_running:.0f} running, {last.num_waiting:.0f} waiting, {last.kv_share:.0%} of the KV "
        f"cache in use (at most {kv_share:.0%} under load). Shared memory: {shm[0]} at the start, {shm[1]} at the end.",
        "",
        str(run.head),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, print the table and the verdict, and keep everything as JSON; 1 unless it passed."""
    parser = argparse.ArgumentParser(
        prog="make bench-soak",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long; default: %(default)g")
    parser.add_argument("--seed", type=int, default=0, help="of the plan; default: %(default)s")
    options = parser.parse_args()
    console = Console(stderr=True)
    run = Soak(read_head("torch"), options.minutes, options.seed)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    # The window bounds the KV cache, whose memory is used as it fills: it is full when the warm-up ends.
    with private_mesh("--max-model-len", str(WINDOW)) as mesh, Progress(*columns, console=console) as progress:
        asyncio.run(soak(mesh, run, progress))
    _save(run)
    return _report(run, console)


def _report(run: Soak, console: Console) -> int:
    assert run.last is not None, "the soak has ended"
    sys.stdout.write(to_markdown(run))
    for error in run.errors:
        console.print(error["kind"], error["problem"], error["answer"][:300], markup=False, highlight=False)
    problems = failures(run.samples, run.last, run.num_errors)
    console.print("missed its goal: " + "; ".join(problems) if problems else "passed", markup=False)
    return 1 if problems else 0


def _save(run: Soak) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "soak.json").write_text(json.dumps(asdict(run), indent=1) + "\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
