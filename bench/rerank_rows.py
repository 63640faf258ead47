"""Says what is measured of rerankers and what they must reach; knows no table and no command line."""

from collections.abc import Sequence
from pathlib import Path

from bench.chat_rows import Row
from bench.embed_rows import CONCURRENCY, LENGTHS, row_of
from bench.engines import Spec, peers_folder

DECODER = peers_folder() / "weights" / "decoder-ranker"  # the demo chat model with a random scoring head
CROSS_ENCODER = peers_folder() / "weights" / "cross-encoder"  # the demo encoder with a random classifier
_FORMS = {
    DECODER: {"ours": {"fp32": "fp32", "int8": "int8"}, "transformers": {"float32": "fp32"}},
    CROSS_ENCODER: {
        "ours": {"fp32": "fp32", "bf16": "bf16", "int8": "int8"},
        "sentence-transformers": {"float32": "fp32"},
        "onnxruntime": {"float32": "fp32"},
        "openvino": {"f32": "fp32", "bf16": "bf16"},
        "ct2": {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"},
    },
}


def rerank_rows(number_class: str) -> list[Row]:
    """A short query with documents of fixed lengths, by each of the two models."""
    return [
        row_of(
            f"{folder.name}-{length}x{count}-{number_class}",
            f"{folder.name}, {count} x {length} words",
            1.0,
            [length] * count,
            specs,
        )
        for folder in (DECODER, CROSS_ENCODER)
        if (specs := _specs(folder, number_class))
        for length in LENGTHS
        for count in CONCURRENCY
    ]


def _specs(folder: Path, number_class: str) -> Sequence[Spec]:
    return [
        Spec(name, form, kind, (name, str(folder), form), "rankers")
        for name, forms in _FORMS[folder].items()
        for form, kind in forms.items()
        if kind == number_class
    ]
