"""Reads what somebody measured about a checkpoint's scores and maps them to 0..1; knows no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelkit.config import CheckpointError, number, read_json

FILE: Final = "calibration.json"
_KEYS: Final = frozenset({"temperature", "threshold", "score_position"})
_POSITIONS: Final = (-3, 1)  # from the start of the answer's turn to the end of the answer


@dataclass(frozen=True, slots=True)
class Calibration:
    """How raw scores become relevance.

    temperature: raw scores are divided by it. Source: On calibration of modern neural networks (Guo et al., 2017).
    threshold: relevance from which a document is worth keeping. score_position: where a Zhinao reranker's score is
    read, counted from the first token of the answer: -1, the position that predicts it, is the only one that cannot
    see the answer.
    """

    temperature: float = 1.0
    threshold: float | None = None
    score_position: int = -1

    def of_logit(self, raw: float) -> float:
        """The sigmoid of a calibrated logit."""
        scaled = raw / self.temperature
        return 1 / (1 + math.exp(-scaled)) if scaled >= 0 else math.exp(scaled) / (1 + math.exp(scaled))

    def of_log_likelihood(self, raw: float) -> float:
        """A calibrated mean log-likelihood, which is never above 0, as a probability."""
        return math.exp(raw / self.temperature)


def read_calibration(folder: Path) -> Calibration:
    """Read the folder's calibration.json, if there is one. Raises CheckpointError naming key and value."""
    file = folder / FILE
    if not file.exists():
        return Calibration()
    raw = read_json(file)
    try:
        if unknown := sorted(raw.keys() - _KEYS):
            raise CheckpointError(f"{unknown} are none of its keys, {sorted(_KEYS)}")
        return Calibration(number(raw, "temperature", 1.0), _threshold(raw), _position(raw))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _threshold(raw: Mapping[str, Any]) -> float | None:
    value = raw.get("threshold")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise CheckpointError(f"threshold is {value!r}, must be a relevance from 0 to 1")
    return float(value)


def _position(raw: Mapping[str, Any]) -> int:
    value = raw.get("score_position", -1)
    lowest, highest = _POSITIONS
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise CheckpointError(f"score_position is {value!r}, must be a whole number from {lowest} to {highest}")
    return value
