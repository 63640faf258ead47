"""Measures pairs per second of rerankers side by side, in one process; knows no quality."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder
from transformers import AutoModelForCausalLM, AutoTokenizer, BertForSequenceClassification

from bench.figures import Contest, Goal, Result, Round, compare, to_markdown
from bench.machine import RESULTS, read_head
from bench.quiet import share_of_others
from mesh.cache import demo_checkpoint
from modelkit.precision import Precision
from services.rerank_worker.ranker import Ranker, load_ranker
from services.rerank_worker.request import RerankRequest

Score = Callable[[RerankRequest], Sequence[float]]
_QUERY = "Which of these tells how to install the system from another disk?"
_LENGTHS, _BATCHES = (16, 128, 512), (1, 8, 32)
_WORDS = ("package", "disk", "system", "kernel", "install", "mirror", "release", "archive")


def main() -> None:
    """Measure every row, print the table and keep the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="make bench-rerank",
        description="Pairs per second of a decoder with a scoring head (the demo chat model's, a random one) and of "
        "a cross-encoder (its encoder with a random classifier), from texts to scores, beside transformers and "
        "sentence-transformers.",
    )
    parser.add_argument("--reps", type=int, default=3, help="rounds per row; default: %(default)s")
    arguments = parser.parse_args()
    console, results = Console(stderr=True), list[Result]()
    for title, engines in (("decoder", _decoders), ("cross-encoder", _cross_encoders)):
        with tempfile.TemporaryDirectory() as folder, engines(Path(folder)) as found:
            for length in _LENGTHS:
                for batch in _BATCHES:
                    contest = Contest(f"{title}, {length} × {batch}", "fp32", "pairs/s", Goal(1.0))
                    console.print(f"measuring {contest.work}")
                    results.append(_measure(contest, found, _request(length, batch), arguments.reps))
    head = read_head("torch", "transformers", "sentence-transformers")
    RESULTS.mkdir(exist_ok=True)
    report = {"head": asdict(head), "results": [asdict(result) for result in results]}
    (RESULTS / "rerank.json").write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(f"{to_markdown(results)}\n{head}\n")


def _request(length: int, batch: int) -> RerankRequest:
    """Documents of about that many tokens, none like another."""
    texts = (" ".join(_WORDS[(i * (n + 3) + n) % len(_WORDS)] for i in range(length)) for n in range(batch))
    return RerankRequest(_QUERY, tuple(texts))


def _measure(contest: Contest, engines: dict[str, Score], request: RerankRequest, reps: int) -> Result:
    rounds = [_round(engines, request) for _ in range(reps + 1)]  # the first one warms everything up
    return compare(contest, rounds[1:], {})


def _round(engines: dict[str, Score], request: RerankRequest) -> Round:
    values: dict[str, float] = {}
    noise = 0.0
    for name, score in engines.items():
        began_s = perf_counter()
        _, others = share_of_others(lambda score=score: score(request), [])
        values[name] = len(request.documents) / (perf_counter() - began_s)
        noise = max(noise, others)
    return Round(values, noise)


def _ours(ranker: Ranker, *, sharing: bool = True) -> Score:
    def score(request: RerankRequest) -> Sequence[float]:
        pairs = ranker.prepare(request)
        return ranker.score(pairs if sharing else [replace(pair, num_shared=0) for pair in pairs])

    return score


@contextmanager
def _decoders(folder: Path) -> Iterator[dict[str, Score]]:
    """Ours with and without shared prefixes; transformers as the original does it, padded to the longest row."""
    demo = demo_checkpoint()
    for file in demo.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "model.safetensors").unlink()
    weight = torch.randn((1, 576), generator=torch.Generator().manual_seed(5))
    file = safe_open(demo / "model.safetensors", framework="pt")
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    save_file(tensors | {"linear.weight": weight}, folder / "model.safetensors")
    ranker = load_ranker(folder, Precision.FP32)
    tokenizer = AutoTokenizer.from_pretrained(demo, padding_side="right")
    model = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32).eval()

    @torch.inference_mode()
    def original(request: RerankRequest) -> Sequence[float]:
        texts = [
            f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{request.query}\n\n{document}<|im_end|>\n"
            "<|im_start|>assistant\n"
            for document in request.documents
        ]
        batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        states = model.model(**batch).last_hidden_state
        last = states[torch.arange(len(texts)), batch["attention_mask"].sum(1) - 1]
        return (last @ weight[0]).tolist()

    yield {"ours": _ours(ranker), "ours without sharing": _ours(ranker, sharing=False), "transformers": original}


@contextmanager
def _cross_encoders(folder: Path) -> Iterator[dict[str, Score]]:
    """Ours, and sentence-transformers, which sorts by length itself."""
    torch.manual_seed(5)
    BertForSequenceClassification.from_pretrained(demo_checkpoint("embed"), num_labels=1).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).symlink_to(demo_checkpoint("embed") / name)
    peer = CrossEncoder(str(folder), max_length=512, device="cpu")

    def predict(request: RerankRequest) -> Sequence[float]:
        pairs = [(request.query, document) for document in request.documents]
        return [float(score) for score in peer.predict(pairs, show_progress_bar=False)]

    yield {"ours": _ours(load_ranker(folder, Precision.FP32)), "sentence-transformers": predict}


if __name__ == "__main__":
    main()
