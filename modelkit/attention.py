"""Decides what an attention is to the decoder, and gives the plainest one; knows no cache."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Attention(Protocol):
    """Mixes the tokens of one step; the decoder calls it once per layer and knows nothing of its memory."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Let each token see its own sequence up to itself.

        q: (tokens, heads, head_dim). k, v: (tokens, kv_heads, head_dim), rotary already applied. Tokens of several
        sequences lie one after the other. Returns (tokens, heads, head_dim).
        """
        ...


class CausalAttention:
    """Attention over whole sequences without a cache: the oracle of the others, and what training uses.

    lengths: tokens of each sequence of the step, in order.
    """

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = lengths

    def __call__(self, _layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Attention. Raises ValueError when the lengths do not sum to the step's tokens."""
        if len(q) != sum(self._lengths):
            raise ValueError(f"the step has {len(q)} tokens, the lengths given sum to {sum(self._lengths)}")
        parts = zip(*(torch.split(x, self._lengths) for x in (q, k, v)), strict=True)
        return torch.cat([_causal(*part) for part in parts])


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # (1, heads, tokens, head_dim)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    return mixed.squeeze(0).transpose(0, 1)
