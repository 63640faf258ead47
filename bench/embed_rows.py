"""Says what is measured of encoders and what they must reach; knows no table and no command line."""

from collections.abc import Sequence
from pathlib import Path

from bench.chat_rows import Measure, Meter, Row
from bench.engines import Spec, peers_folder
from bench.figures import Contest, Goal
from bench.peers.protocol import Job

LENGTHS = (16, 128, 512)
CONCURRENCY = (1, 8, 32)
MIXED = [8 + 16 * i % 473 for i in range(128)]  # tokens, from 8 to 480
_FORMS = {
    "ours": {"fp32": "fp32", "bf16": "bf16", "int8": "int8"},
    "sentence-transformers": {"float32": "fp32"},
    "infinity": {"float32": "fp32"},
    "onnxruntime": {"float32": "fp32"},
    "openvino": {"f32": "fp32", "bf16": "bf16"},
    "ct2": {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"},
}


def encoder_folder() -> Path:
    """The demo encoder with a limit of 512 tokens, beside it what the peers make of it."""
    return peers_folder() / "weights" / "encoder"


def _specs(order: str) -> list[Spec]:
    """Every engine in every format. order: `sorted`, or `arrival`, of the batches of those that take batches."""
    return [
        Spec(
            name,
            form if order == "arrival" else f"{form} sorted",
            kind,
            (name, str(encoder_folder()), form, order),
            "encoders",
        )
        for name, forms in _FORMS.items()
        for form, kind in forms.items()
    ]


def embed_rows(number_class: str) -> list[Row]:
    """Every row of a number class: fixed lengths, and a mix that peers get as it comes or by length."""
    plain, by_length = ([s for s in _specs(order) if s.number_class == number_class] for order in ("arrival", "sorted"))
    fixed = [
        row_of(f"{length}x{count}-{number_class}", f"{count} x {length} tokens", 1.0, [length] * count, plain)
        for length in LENGTHS
        for count in CONCURRENCY
    ]
    return [
        *fixed,
        row_of(f"mixed-{number_class}", "128 texts of 8 to 480 tokens, as they come", 2.0, MIXED, plain),
        row_of(f"sorted-{number_class}", "the same, by length", 1.0, MIXED, by_length),
    ]


def row_of(name: str, work: str, ratio: float, lengths: Sequence[int], engines: Sequence[Spec]) -> Row:
    """A row of texts, or documents, of these lengths per second; ratio: to reach."""
    contest = Contest(work, engines[0].number_class, "1/s", Goal(ratio))
    return Row(name, contest, _per_second(lengths), engines)


def _per_second(lengths: Sequence[int]) -> Measure:
    jobs = num_jobs(lengths)

    def measure(meter: Meter) -> dict[str, float]:
        made = [Job([meter.prompts.take(length) for length in lengths], 1) for _ in range(jobs)]
        seconds = sum(meter.run(job).seconds for job in made)
        return {meter.engine.spec.name: jobs * len(lengths) / seconds}

    return measure


def num_jobs(lengths: Sequence[int]) -> int:
    """How many such jobs are measured together: short ones several."""
    return max(1, 4096 // sum(lengths))
