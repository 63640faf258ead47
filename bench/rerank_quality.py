"""Measures how well a reranker orders real candidates, and what number formats cost in it; knows no speed."""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.progress import track

from bench.machine import RESULTS, read_head
from bench.ranking import BM25, Quality, best_first, judge, kendall_tau
from bench.texts import Section, read_text, sections
from mesh.cache import demo_checkpoint
from modelkit.precision import Precision
from services.rerank_worker.ranker import Ranker, load_ranker
from services.rerank_worker.request import RerankRequest

_FORMATS = (Precision.FP32, Precision.INT8)
_SHUFFLES = 100


@dataclass(frozen=True, slots=True)
class Task:
    """Sections, and for each asked title the candidates to order. relevant: the section below that title."""

    sections: Sequence[Section]
    relevant: Sequence[int]
    candidates: Sequence[Sequence[int]]

    @classmethod
    def build(cls, found: Sequence[Section], *, num_candidates: int, every: int) -> "Task":
        """Ask for each title but every n-th: with those, prompts were chosen."""
        bm25 = BM25([section.body for section in found])
        relevant = [index for index in range(len(found)) if index % every]
        ranked = [best_first(bm25.scores(found[index].title)) for index in relevant]
        return cls(found, relevant, [ranking[:num_candidates] for ranking in ranked])


def main() -> None:
    """Rank, print the table and keep the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="make eval-rerank",
        description="Orders BM25's best sections of the Debian FAQ for its own headings (from a Debian mirror) "
        "and tells MAP and NDCG@10 beside BM25, chance, and the best order there is.",
    )
    parser.add_argument("--model", type=Path, default=demo_checkpoint(), help="checkpoint folder; default: the demo's")
    parser.add_argument("--candidates", type=int, default=10, help="sections per query; default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=256, help="tokens of a section; default: %(default)s")
    arguments = parser.parse_args()
    task = Task.build(sections(read_text("debian-faq")), num_candidates=arguments.candidates, every=3)
    scores = {each: _scores(arguments.model, each, task, arguments.max_tokens) for each in _FORMATS}
    table = _baselines(task) | {f"ours, {each}": _judge_scores(task, found) for each, found in scores.items()}
    tau = mean(kendall_tau(*both) for both in zip(*scores.values(), strict=True))
    head = read_head("torch")
    report = {"head": asdict(head), "queries": len(task.relevant), "tau": tau} | {
        n: asdict(q) for n, q in table.items()
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "rerank-quality.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = ["| ranking | MAP | NDCG@10 |", "|---|---|---|"]
    lines += [f"| {name} | {each.mean_average_precision:.3f} | {each.ndcg_at_10:.3f} |" for name, each in table.items()]
    closing = f"{len(task.relevant)} queries; Kendall's tau of {' and '.join(_FORMATS)}: {tau:.3f}; {head}"
    sys.stdout.write("\n".join(lines) + f"\n\n{closing}\n")


def _baselines(task: Task) -> dict[str, Quality]:
    generator = random.Random(1)  # noqa: S311  (no secret)
    shuffled = [generator.sample(each, len(each)) for _ in range(_SHUFFLES) for each in task.candidates]
    both = zip(task.candidates, task.relevant, strict=True)
    perfect = [[wanted] if wanted in candidates else [] for candidates, wanted in both]
    return {
        "chance": judge(shuffled, list(task.relevant) * _SHUFFLES),
        "BM25": judge(task.candidates, task.relevant),
        "best possible": judge(perfect, task.relevant),
    }


def _scores(model: Path, precision: Precision, task: Task, max_tokens: int) -> list[list[float]]:
    """Raw scores of each query's candidates."""
    ranker = load_ranker(model, precision)
    queries = list(zip(task.relevant, task.candidates, strict=True))
    return [
        _score(ranker, task, query, candidates, max_tokens)
        for query, candidates in track(queries, precision, console=Console(stderr=True))
    ]


def _score(ranker: Ranker, task: Task, query: int, candidates: Sequence[int], max_tokens: int) -> list[float]:
    documents = tuple(task.sections[index].body for index in candidates)
    return ranker.score(ranker.prepare(RerankRequest(task.sections[query].title, documents, max_tokens)))


def _judge_scores(task: Task, scores: Sequence[Sequence[float]]) -> Quality:
    rankings = [[c[i] for i in best_first(found)] for c, found in zip(task.candidates, scores, strict=True)]
    return judge(rankings, task.relevant)


if __name__ == "__main__":
    main()
