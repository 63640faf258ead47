"""Finds the head that turns a decoder's state into one score; does not know at which token it is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from modelkit.checkpoint import Checkpoint
from modelkit.config import CheckpointError
from modelkit.weights import open_weights

_WEIGHT: Final = "linear.weight"
_BIAS: Final = "linear.bias"
HEAD_TENSORS: Final = (_WEIGHT, _BIAS)
_ROWS: Final = 8192  # of the vocabulary at a time, in double precision


@dataclass(frozen=True, slots=True)
class ScoringHead:
    """A score is weight, (1, hidden_size) fp32, times the state after the last norm, plus bias."""

    weight: Tensor
    bias: float


def has_scoring_head(folder: Path) -> bool:
    """Whether the folder's weights hold one. Raises CheckpointError."""
    return _WEIGHT in open_weights(folder)


def read_scoring_head(checkpoint: Checkpoint) -> ScoringHead:
    """Read the head of a checkpoint that was opened with HEAD_TENSORS. Raises CheckpointError naming shapes.

    Its width says what it reads: hidden_size, the state itself; vocab_size, the logits. Logits are a product of the
    state too, so the second kind is multiplied out here once, and no logit is ever computed.
    """
    config, stored = checkpoint.config, checkpoint.tensors[_WEIGHT]
    if stored.shape not in ((1, config.hidden_size), (1, config.vocab_size)):
        message = f"must be (1, {config.hidden_size}) for states or (1, {config.vocab_size}) for logits"
        raise CheckpointError(f"{stored.file}: {_WEIGHT} has shape {stored.shape}, {message}")
    weight = checkpoint.read(_WEIGHT).double()
    if stored.shape[1] != config.hidden_size:
        name = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        parts = zip(torch.split(weight, _ROWS, dim=1), torch.split(checkpoint.read(name), _ROWS), strict=True)
        weight = torch.stack([part @ rows.double() for part, rows in parts]).sum(0)
    return ScoringHead(weight.float(), _read_bias(checkpoint))


def _read_bias(checkpoint: Checkpoint) -> float:
    if _BIAS not in checkpoint.tensors:
        return 0.0
    stored = checkpoint.tensors[_BIAS]
    if stored.shape != (1,):
        raise CheckpointError(f"{stored.file}: {_BIAS} has shape {stored.shape}, must be (1,)")
    return float(checkpoint.read(_BIAS))
