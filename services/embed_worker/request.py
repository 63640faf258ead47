"""The plain form of an embedding request and of its answer inside the worker."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Truncate(StrEnum):
    """What to do with an input that is too long."""

    ERROR = "error"
    END = "end"
    START = "start"


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What is asked for. instruction, dimensions: None for the model's own; space: None if none is pinned."""

    inputs: tuple[str | tuple[int, ...], ...]
    is_query: bool
    instruction: str | None
    dimensions: int | None
    truncate: Truncate
    space: str | None


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector. values: float32, [dimensions]."""

    values: NDArray[np.float32]
    truncated_tokens: int
