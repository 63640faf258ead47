"""Measures this project's encoder and its peers side by side; what is measured is in embed_rows."""

import argparse
import json
import sys
import time
from dataclasses import asdict

from rich.console import Console

from bench.embed_rows import rows
from bench.figures import to_markdown
from bench.machine import RESULTS, read_head
from bench.prompts import Prompts
from bench.race import Race

_DESCRIPTION = """
Measures texts per second, tokenising included, against sentence-transformers, infinity, ONNX Runtime, OpenVINO and
CTranslate2 on the demo encoder, 2 threads and 512 tokens at most each. `make bench-peers` installs the peers.
"""


def main() -> None:
    """Measure, print the table and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="rows whose name begins so; repeatable")
    parser.add_argument("--reps", type=int, default=3, help="rounds to keep")
    parser.add_argument("--wait-s", type=float, default=20.0, help="seconds to wait for others to be quiet")
    arguments = parser.parse_args()
    race = Race(arguments.reps, Prompts(time.time_ns()), Console(stderr=True), wait_s=arguments.wait_s)
    head = read_head("torch")
    wanted = tuple(arguments.only or [""])
    chosen = [row for kind in ("fp32", "bf16", "int8") for row in rows(kind) if row.name.startswith(wanted)]
    results = []
    for row in chosen:
        results.append(race.run(row))
        report = {**asdict(head), "engines": race.engines, "results": [asdict(result) for result in results]}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "embed.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(to_markdown(results))
    sys.stdout.write(f"\n{head}; median of {race.reps} rounds\n")


if __name__ == "__main__":
    main()
