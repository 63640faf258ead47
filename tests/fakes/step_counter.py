"""Stands in for a decoder under a ranker: counts the tokens it is given, and says 0 of all of them."""

import torch
from torch import Tensor

from modelkit.paged import Step
from modelkit.precision import Precision


class StepCounter:
    """Counts the tokens of the steps it is given."""

    precision = Precision.FP32
    computed_by = "nobody"

    def __init__(self) -> None:
        self.num_tokens = 0

    def with_cache(self, **_: int) -> "StepCounter":
        return self

    def forward(self, step: Step) -> Tensor:
        self.num_tokens += len(step.token_ids)
        return torch.zeros(len(step.rows), 1)

    def copy_block(self, source: int, target: int) -> None:
        pass
