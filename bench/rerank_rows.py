"""Says what is measured of rerankers and what they must reach; knows no table and no command line."""

from collections.abc import Sequence
from pathlib import Path

from bench.chat_rows import Row
from bench.embed_rows import CONCURRENCY, LENGTHS, MIXED, row_of
from bench.engines import Spec, peers_folder

DECODER = peers_folder() / "weights" / "decoder-ranker"  # the demo chat model with a random scoring head
CROSS_ENCODER = peers_folder() / "weights" / "cross-encoder"  # the demo encoder with a random classifier
_FORMS = {
    DECODER: {"ours": {"fp32": "fp32", "int8": "int8"}, "transformers": {"float32": "fp32"}},
    CROSS_ENCODER: {
        "ours": {"fp32": "fp32", "bf16": "bf16", "int8": "int8"},
        "sentence-transformers": {"float32": "fp32"},
        "infinity": {"float32": "fp32"},
        "onnxruntime": {"float32": "fp32"},
        "openvino": {"f32": "fp32", "bf16": "bf16"},
        "ct2": {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"},
    },
}


def rerank_rows(number_class: str) -> list[Row]:
    """A short query with documents of fixed lengths, by each of the two models, and with a mix by cross-encoders."""
    fixed = [
        row_of(
            f"{folder.name}-{length}x{count}-{number_class}",
            f"{folder.name}, {count} x {length} words",
            1.0,
            [length] * count,
            specs,
        )
        for folder in (DECODER, CROSS_ENCODER)
        if (specs := _specs(folder, number_class, "arrival"))
        for length in LENGTHS
        for count in CONCURRENCY
    ]
    orders = {"arrival": ("mixed", "as they come", 2.0), "sorted": ("sorted", "by length", 1.0)}
    mixed = [
        row_of(
            f"{CROSS_ENCODER.name}-{name}-{number_class}",
            f"{CROSS_ENCODER.name}, 128 documents of 8 to 480 words, {how}",
            goal,
            MIXED,
            specs,
        )
        for order, (name, how, goal) in orders.items()
        if (specs := _specs(CROSS_ENCODER, number_class, order))
    ]
    return fixed + mixed


def _specs(folder: Path, number_class: str, order: str) -> Sequence[Spec]:
    """order: `sorted`, or `arrival`, of the batches of those that take batches."""
    return [
        Spec(name, form if order == "arrival" else f"{form} sorted", kind, (name, str(folder), form, order), "rankers")
        for name, forms in _FORMS[folder].items()
        for form, kind in forms.items()
        if kind == number_class
    ]
