"""Decides how Zhinao's fused projection is taken apart and put together; reads no files."""

import torch
from torch import Tensor

from modelkit.config import DecoderConfig


def split_qkv(fused: Tensor, config: DecoderConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Undo Zhinao's interleave: each kv head's rows lie together as its queries, its key, its value.

    fused: ((heads + 2 kv_heads) * head_dim, ...), a weight or a bias. Returns q (heads * head_dim, ...), k and v
    (kv_heads * head_dim, ...). Source: 360Zhinao's code for vLLM.
    """
    queries_per_kv = config.num_heads // config.num_kv_heads
    groups = fused.view(config.num_kv_heads, queries_per_kv + 2, config.head_dim, *fused.shape[1:])
    q, k, v = torch.split(groups, [queries_per_kv, 1, 1], dim=1)
    return q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)


def fuse_qkv(q: Tensor, k: Tensor, v: Tensor, config: DecoderConfig) -> Tensor:
    """The exact inverse of split_qkv."""
    groups = [x.view(config.num_kv_heads, -1, config.head_dim, *x.shape[1:]) for x in (q, k, v)]
    return torch.cat(groups, dim=1).flatten(0, 2)
