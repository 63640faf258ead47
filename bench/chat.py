"""Measures this project's chat engine and its peers side by side; what is measured is in chat_rows and served."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console

from bench.chat_rows import Row, rows
from bench.engines import Spec, catalogue, peers_folder, python_of
from bench.figures import Result, best_of_all, to_markdown
from bench.machine import RESULTS, Head, read_head
from bench.private_mesh import private_mesh
from bench.prompts import Prompts
from bench.race import Race
from bench.served import served_rows

_DESCRIPTION = """
Measures the chat engine against llama.cpp, OpenVINO GenAI and CTranslate2 on the demo weights, 2 threads each.

Every round measures all engines of a row one after another, on prompts that nobody has seen; a row keeps the rounds
that other processes disturbed least, never the fastest. The ratio is ours to the best of the others in that row.
An engine that cannot be started is listed with a dash; the reason is on the screen and in bench/results/chat.json.
"""
_EXAMPLES = """
examples:
  make bench-peers                                    build the peers once (some minutes of compiling)
  make bench-chat                                     everything, about an hour on 2 cores
  make bench-chat ARGS="--only single-int8 --reps 3"  one row
  make bench-chat ARGS="--only streams --peers llama" rows whose name begins so, against one peer
  make bench-chat ARGS="--only mesh --only triton"    what Triton, and the whole mesh, cost
"""
_SERVED = ("triton", "mesh")


def main() -> None:
    """Measure, print the table and keep the figures as JSON."""
    arguments = _parser().parse_args()
    peers = arguments.peers.split(",")
    for peer in peers:
        if not python_of(peer).exists():
            sys.exit(f"bench-chat: {peer} is not installed in {peers_folder()}; run: make bench-peers")
    specs = [spec for spec in catalogue() if spec.is_ours or spec.engine in peers]
    race = Race(arguments.reps, Prompts(time.time_ns()), Console(stderr=True))
    head = read_head("torch")
    results: list[Result] = []
    for row in _rows(specs, arguments.dtype, arguments.only or [""]):
        results.append(race.run(row))
        _save(head, race, results)  # an hour is long: what is measured is kept
    sys.stdout.write(to_markdown([*results, *best_of_all(results)]))
    sys.stdout.write(f"\n{head}; median of {race.reps} rounds\n")


def _rows(specs: Sequence[Spec], own_format: str, wanted: Sequence[str]) -> Iterator[Row]:
    """The rows asked for; a mesh runs only while those that need one are measured."""

    def chosen(candidates: Sequence[Row]) -> Iterator[Row]:
        return (row for row in candidates if any(map(row.name.startswith, wanted)))

    yield from chosen(rows(specs, own_format))
    if any(name.startswith(word) for name in _SERVED for word in wanted):
        own = [spec for spec in specs if spec.is_ours and spec.number_format == own_format]
        with private_mesh("--chat-dtype", own_format, "--max-model-len", "4096") as mesh:
            yield from chosen(served_rows(mesh, own))


def _save(head: Head, race: Race, results: Sequence[Result]) -> None:
    RESULTS.mkdir(exist_ok=True)
    words = {"head": asdict(head), "reps": race.reps, "engines": race.engines, "results": list(map(asdict, results))}
    (RESULTS / "chat.json").write_text(json.dumps(words, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench-chat",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join((*(row.name for row in rows(catalogue(), "int8")), *_SERVED))
    parser.add_argument("--only", action="append", metavar="ROW", help=f"repeatable: rows that begin so, of {names}")
    parser.add_argument("--peers", default="llama,openvino,ct2", help="which peers, with commas; default: %(default)s")
    parser.add_argument("--dtype", default="int8", help="our format in the rows about us alone; default: %(default)s")
    parser.add_argument("--reps", type=int, default=5, help="rounds to keep per row; default: %(default)s")
    return parser


if __name__ == "__main__":
    main()
