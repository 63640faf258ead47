"""Measures how many answers to 200 JSON schemas end and validate, on the demo model in the real engine."""

import argparse
import json
import queue
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from rich.console import Console
from rich.progress import track

from bench.machine import RESULTS, read_head
from bench.schemas import Case, cases
from mesh.cache import demo_checkpoint
from meshkit.errors import MeshError
from modelkit.conversation import Message
from services.chat_worker.engine.generation import Load, Piece
from services.chat_worker.engine.sequence import FinishReason, RequestId
from services.chat_worker.request import ChatPrompt, FormatKind, GenerationRequest, OutputFormat
from services.chat_worker.settings import ChatSettings
from services.chat_worker.worker import build_worker

WINDOW = 4096  # tokens
MAX_TOKENS = {True: 768, False: 384}  # by bounded: no answer to a bounded schema can be longer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one schema. verdict: valid, unfinished, or what is wrong with the answer or the request."""

    name: str
    bounded: bool
    verdict: str
    tokens: int
    text: str


class Collector:
    """The engine's sink; knows which requests have ended."""

    def __init__(self) -> None:
        self.ended: queue.SimpleQueue[tuple[int, Piece | MeshError]] = queue.SimpleQueue()
        self.texts: dict[int, str] = {}

    def emit(self, request_id: RequestId, piece: Piece) -> None:
        """Add a piece to its answer."""
        self.texts[request_id] = self.texts.get(request_id, "") + piece.text
        if piece.last:
            self.ended.put((request_id, piece))

    def fail(self, request_id: RequestId, error: MeshError) -> None:
        """Note a failure."""
        self.ended.put((request_id, error))

    def observe(self, load: Load) -> None:
        """Ignore the load."""


def run(asked: Sequence[Case], checkpoint: Path, *, temperature: float, seed: int) -> Iterator[Outcome]:
    """Answer all schemas together, as the engine batches them; yields them as they end."""
    sink = Collector()
    worker = build_worker(ChatSettings(model_path=checkpoint, max_model_len=WINDOW, kv_windows=8), sink)
    worker.loop.start()
    try:
        for number, case in enumerate(asked):
            request = to_request(case, temperature=temperature, seed=seed + number)
            worker.submit(RequestId(number), worker.prompts.prepare(request, fallback_seed=0))
        for _ in asked:
            number, end = sink.ended.get()
            yield judge(asked[number], sink.texts.get(number, ""), end)
    finally:
        worker.loop.close()


def to_request(case: Case, *, temperature: float, seed: int) -> GenerationRequest:
    """Ask for an example of the schema, which the model sees as well as the grammar."""
    schema = json.dumps(case.schema, ensure_ascii=False)
    question = f"Give a short example of JSON data that follows this schema:\n{schema}"
    return GenerationRequest(
        request_id=case.name,
        model="",
        prompt=ChatPrompt((Message("user", question),)),
        temperature=temperature,
        seed=seed,
        max_tokens=MAX_TOKENS[case.bounded],
        format=OutputFormat(FormatKind.JSON_SCHEMA, (schema,)),
    )


def judge(case: Case, text: str, end: Piece | MeshError) -> Outcome:
    """Compare an answer with its schema, by a validator that shares no code with the grammar."""
    if isinstance(end, MeshError):
        return Outcome(case.name, case.bounded, f"failed: {end.message}", 0, text)
    assert end.finish is not None
    tokens = end.finish.completion_tokens
    if end.finish.reason is FinishReason.LENGTH:
        return Outcome(case.name, case.bounded, "unfinished", tokens, text)
    try:
        Draft202012Validator(case.schema, format_checker=FormatChecker()).validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        return Outcome(case.name, case.bounded, f"invalid: {str(error).splitlines()[0]}", tokens, text)
    return Outcome(case.name, case.bounded, "valid", tokens, text)


def main() -> int:
    """Run, print the sums and write the results; fails unless the goals are met."""
    parser = argparse.ArgumentParser(prog="make bench-structured", description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_checkpoint(), help="checkpoint folder (the demo model)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first schema; each next one has one more")
    parser.add_argument("--only", default="", help="schemas whose name contains this, e.g. real_life or -8")
    options = parser.parse_args()
    asked = [case for case in cases() if options.only in case.name]
    console = Console(stderr=True)
    began_s = time.perf_counter()
    answers = run(asked, options.model, temperature=options.temperature, seed=options.seed)
    outcomes = list(track(answers, "schemas", total=len(asked), console=console))
    seconds = time.perf_counter() - began_s
    return report(outcomes, seconds, temperature=options.temperature, console=console)


def report(outcomes: Sequence[Outcome], seconds: float, *, temperature: float, console: Console) -> int:
    """Print what went wrong and the sums, and write everything; 1 if a goal is missed, else 0."""
    verdicts = Counter(outcome.verdict.partition(":")[0] for outcome in outcomes)
    open_ended = [outcome.name for outcome in outcomes if outcome.bounded and outcome.verdict == "unfinished"]
    for outcome in outcomes:
        if outcome.verdict != "valid":
            console.print(f"{outcome.name}: {outcome.verdict}: {outcome.text[:100]!r}", markup=False, highlight=False)
    sums = {
        "schemas": len(outcomes),
        **verdicts,
        "bounded": sum(outcome.bounded for outcome in outcomes),
        "bounded_unfinished": len(open_ended),
        "tokens": sum(outcome.tokens for outcome in outcomes),
        "seconds": round(seconds, 1),
    }
    finished = len(outcomes) - verdicts["unfinished"]
    passed = verdicts["valid"] == finished and finished >= 0.8 * len(outcomes) and not open_ended
    console.print(sums, "passed" if passed else "missed its goal")
    content = {
        **asdict(read_head("llguidance", "jsonschema", "torch")),
        "temperature": temperature,
        "max_tokens": {"bounded": MAX_TOKENS[True], "open": MAX_TOKENS[False]},
        **sums,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "structured.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
