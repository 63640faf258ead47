"""Keeps keys and values in a pool of slots and attends through slot numbers; does not decide who gets which slots."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class KVPool:
    """Keys and values of every layer in fixed slots, one token each.

    keys, values: (layers, slots, kv_heads, head_dim). Pages that were never written cost address space, not memory.
    """

    def __init__(self, *, layers: int, slots: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        shape = (layers, slots, kv_heads, head_dim)
        self.keys = torch.empty(shape, dtype=dtype)
        self.values = torch.empty(shape, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a step that belongs to one sequence.

    num_new: tokens computed in this step, the last ones of the context.
    slots: (context,) int64, where each token of the context lies in the pool, the new ones included.
    """

    num_new: int
    slots: Tensor


class PagedAttention:
    """Attention of one step over a KVPool: the plain reference, one call of torch's SDPA per sequence.

    Each sequence sees exactly its own slots, so its result does not depend on its neighbours. Copies the context once
    per layer: a step costs O(context) memory traffic per sequence.
    """

    def __init__(self, pool: KVPool, segments: list[Segment]) -> None:
        self._pool = pool
        self._segments = segments
        self._new_slots = torch.cat([segment.slots[-segment.num_new :] for segment in segments])
        self._masks = [_causal_mask(segment) for segment in segments]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v of the new tokens, then let each new token see its own past.

        q: (tokens, heads, head_dim). k, v: (tokens, kv_heads, head_dim). Returns (tokens, heads, head_dim).
        """
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        keys.index_copy_(0, self._new_slots, k)
        values.index_copy_(0, self._new_slots, v)
        lengths = [segment.num_new for segment in self._segments]
        return torch.cat(
            [
                _attend(rows, keys[segment.slots], values[segment.slots], mask)
                for rows, segment, mask in zip(torch.split(q, lengths), self._segments, self._masks, strict=True)
            ]
        )


def _causal_mask(segment: Segment) -> Tensor | None:
    """(new, context) bool, True where a new token may look; None when one token sees everything."""
    if segment.num_new == 1:
        return None
    context = len(segment.slots)
    return torch.ones(segment.num_new, context, dtype=torch.bool).tril(context - segment.num_new)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    heads_first = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # (1, heads, tokens, head_dim)
    out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return out.squeeze(0).transpose(0, 1)
