"""Stands in for an encoder at its worker's seam: every word is a token, and its letters count."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshkit.errors import MeshError, Reason
from services.embed_worker.request import EmbedRequest


@dataclass(frozen=True, slots=True)
class FakeRow:
    token_ids: Sequence[int]
    truncated_tokens: int = 0


class FakeEncoder:
    """Vectors of the number of tokens, their sum, and zeros. Keeps the requests it was asked to prepare."""

    max_tokens, dimensions = 8, 4

    def __init__(self) -> None:
        self.requests: list[EmbedRequest] = []

    def prepare(self, request: EmbedRequest) -> list[FakeRow]:
        self.requests.append(request)
        if request.space not in (None, self.space(request.dimensions or self.dimensions)):
            raise MeshError(Reason.SPACE_MISMATCH, "another space", param="space")
        ids = [[len(word) for word in each.split()] if isinstance(each, str) else list(each) for each in request.inputs]
        return [FakeRow(each[: self.max_tokens], max(0, len(each) - self.max_tokens)) for each in ids]

    def encode(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return np.array([[len(row), sum(row), 0, 0] for row in rows], dtype=np.float32)

    def cut(self, vector: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
        return vector[:dimensions]

    def space(self, dimensions: int) -> str:
        return f"fake-{dimensions}"
