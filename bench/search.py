"""Measures this project's encoder or reranker and its peers side by side; what is measured is in the rows' modules."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console

from bench.chat_rows import Row
from bench.embed_rows import embed_rows, encoder_folder
from bench.engines import Spec
from bench.figures import to_markdown
from bench.machine import RESULTS, read_head
from bench.private_mesh import private_mesh
from bench.prompts import Prompts
from bench.race import Race
from bench.rerank_rows import CROSS_ENCODER, DECODER, rerank_rows
from bench.served_search import served_rows

_DESCRIPTION = """
embed: texts per second, tokenising included, against sentence-transformers, infinity, ONNX Runtime, OpenVINO and
CTranslate2 on the demo encoder. rerank: pairs per second of a decoder with a scoring head (the demo chat model with a
random head) against transformers, and of a cross-encoder (the demo encoder with a random classifier) against
sentence-transformers, ONNX Runtime, OpenVINO and CTranslate2. 2 threads and 512 tokens at most each. Rows that begin
with `served` compare what Triton and the whole mesh give with the same engine in process. `make bench-peers` installs
the peers.
"""
_EXAMPLES = """
examples:
  make bench-embed ARGS="--only mixed --only sorted"     rows whose name begins so
  make bench-rerank ARGS="--only served --reps 5"        what Triton and the whole mesh cost
"""
_CLASSES = ("fp32", "bf16", "int8")


def main() -> None:
    """Measure, print the table and keep the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="make bench-embed | bench-rerank",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=("embed", "rerank"))
    parser.add_argument("--only", action="append", help="rows whose name begins so; repeatable")
    parser.add_argument("--reps", type=int, default=3, help="rounds to keep; default: %(default)s")
    parser.add_argument("--wait-s", type=float, default=20.0, help="seconds to wait for others to be quiet")
    arguments = parser.parse_args()
    race = Race(arguments.reps, Prompts(time.time_ns()), Console(stderr=True), wait_s=arguments.wait_s)
    head = read_head("torch")
    results = []
    for row in _rows(arguments.kind, tuple(arguments.only or [""])):
        results.append(race.run(row))
        report = {**asdict(head), "engines": race.engines, "results": [asdict(result) for result in results]}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{arguments.kind}.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(to_markdown(results))
    sys.stdout.write(f"\n{head}; median of {race.reps} rounds\n")


def _rows(kind: str, wanted: tuple[str, ...]) -> Iterator[Row]:
    """The rows asked for; a mesh runs only while those that need one are measured."""
    make, models = (
        (embed_rows, {"": encoder_folder()})
        if kind == "embed"
        else (rerank_rows, {"decoder ": DECODER, "cross-encoder ": CROSS_ENCODER})
    )
    rows = [row for number_class in _CLASSES for row in make(number_class)]
    yield from (row for row in rows if row.name.startswith(wanted))
    for prefix, folder in models.items():
        own = _own(rows, str(folder))
        names = [row.name for row in served_rows(kind, prefix, own, None)]
        if any(name.startswith(wanted) for name in names):
            with private_mesh(f"--{kind}-model", str(folder), f"--{kind}-dtype", "fp32", kinds=(kind,)) as mesh:
                yield from (row for row in served_rows(kind, prefix, own, mesh) if row.name.startswith(wanted))


def _own(rows: Sequence[Row], folder: str) -> Spec:
    """Our engine on that folder, in fp32."""
    specs = (spec for row in rows for spec in row.specs)
    return next(s for s in specs if s.is_ours and s.number_class == "fp32" and folder in s.arguments)


if __name__ == "__main__":
    main()
