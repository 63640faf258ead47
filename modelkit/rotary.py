"""Decides the angles by which queries and keys are turned at each position; knows no layers and no cache."""

import math

import torch
from torch import Tensor

from modelkit.config import DecoderConfig, Llama3Scaling


class Rotary:
    """Rotary position embedding over the whole head, pairing component t with t + head_dim / 2.

    Angles are computed in fp32 whatever the model's dtype (half precision loses far positions), and afresh at each
    step: at the few positions of a step that costs less than reading a table of max_position_embeddings rows.
    Source: RoFormer (Su et al., 2021), section 3.4; the 360Zhinao technical report.
    """

    def __init__(self, config: DecoderConfig) -> None:
        self._frequencies = inverse_frequencies(config)

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine for `rotate`, each (tokens, 1, head_dim) fp32. positions: (tokens,) int64."""
        # kept where it was used last: while a CUDA graph is recorded nothing may come from the CPU's memory
        self._frequencies = self._frequencies.to(positions.device)
        angles = positions[:, None, None].float() * self._frequencies  # (tokens, 1, head_dim / 2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn x, (tokens, heads, head_dim), by the tables of its tokens' positions. Same shape and dtype."""
    swapped = x.roll(x.shape[-1] // 2, dims=-1)  # the sign that rotate-half gives its first half is in signed_sin
    return torch.addcmul(x * cos, swapped, signed_sin).to(x.dtype)


def inverse_frequencies(config: DecoderConfig) -> Tensor:
    """Angle per position of each pair: rope_theta ** (-2i / head_dim), stretched where the config says so.

    Returns (head_dim / 2,) fp32, on the CPU also when the network is built on the meta device.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    return frequencies if config.rope_scaling is None else _stretch(frequencies, config.rope_scaling)


def _stretch(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Divide slow frequencies by the factor, keep fast ones, and blend those between."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)  # within the original context
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)
