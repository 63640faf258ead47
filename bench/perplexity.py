"""Measures what each number format costs in perplexity on text that the demo model was not made for; knows no speed."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from bench.machine import RESULTS, read_head
from bench.texts import TEXTS, read_text
from mesh.cache import demo_checkpoint
from modelkit.devices import best_device
from modelkit.paged import PagedModel, Segment, Step
from modelkit.precision import Precision, load_weights
from modelkit.tokenizer import load_tokenizer

_WINDOW, _BLOCK_LEN = 512, 32
_FORMATS = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.INT4)


def main() -> None:
    """Measure every format, print the table and keep the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="make bench-perplexity",
        description="Perplexity of the demo model in each number format, on windows of 512 tokens of the Debian FAQ "
        "and the Debian Reference (fetched with apt-get download). Goal: the default, int8, within 1 % of fp32.",
    )
    parser.add_argument("--windows", type=int, default=40, help="windows per text; default: %(default)s")
    parser.add_argument("--model", type=Path, default=demo_checkpoint(), help="checkpoint folder; default: the demo's")
    arguments = parser.parse_args()
    windows = list(_windows(arguments.model, arguments.windows))
    head = read_head("torch")
    found = {precision.value: _perplexity(arguments.model, precision, windows) for precision in _FORMATS}
    RESULTS.mkdir(exist_ok=True)
    report = {"head": asdict(head), "tokens": len(windows) * (_WINDOW - 1), "perplexity": found}
    (RESULTS / "perplexity.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = ["| format | perplexity | against fp32 |", "|---|---|---|"]
    lines += [f"| {name} | {value:.3f} | {value / found['fp32'] - 1:+.2%} |" for name, value in found.items()]
    sys.stdout.write("\n".join(lines) + f"\n\n{report['tokens']:,} tokens; {head}\n")


def _windows(folder: Path, count: int) -> Iterator[list[int]]:
    """Windows of token ids spread evenly over each text."""
    tokenizer = load_tokenizer(folder)
    for package in TEXTS:
        text = " ".join(read_text(package).split())
        token_ids = tokenizer.encode(text)
        stride = (len(token_ids) - _WINDOW) // count
        if stride < 1:
            raise SystemExit(f"bench-perplexity: {package} has {len(token_ids)} tokens, too few for {count} windows")
        for place in range(count):
            yield token_ids[place * stride : place * stride + _WINDOW]


def _perplexity(folder: Path, precision: Precision, windows: Sequence[list[int]]) -> float:
    weights = load_weights(folder, precision, best_device(), _BLOCK_LEN)
    model = weights.with_cache(num_blocks=_WINDOW // _BLOCK_LEN, block_len=_BLOCK_LEN, max_batch=1, max_context=_WINDOW)
    losses = [_loss(model, window) for window in track(windows, precision, console=Console(stderr=True))]
    return math.exp(sum(losses) / len(losses))


def _loss(model: PagedModel, window: list[int]) -> float:
    """Mean negative log-likelihood of the window's tokens after the first, in nats."""
    step = Step.build([Segment(window, 0, range(_WINDOW // _BLOCK_LEN), num_logits=len(window))])
    logprobs = model.forward(step)[:-1].log_softmax(-1)
    return -float(logprobs.gather(1, torch.tensor(window[1:])[:, None]).mean())


if __name__ == "__main__":
    main()
