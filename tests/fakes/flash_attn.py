"""Stands in for flash-attn 2.8: its two paged functions in plain arithmetic, as its docstrings describe them.

Like the real ones it refuses block lengths, dtypes and layouts that the kernels do not take; unlike them it runs on a
CPU and takes fp32, so that its result can be compared closely.
"""

import torch
from torch import Tensor


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor:
    """q: (total_q, heads, head_dim); k, v: (blocks, block_len, kv_heads, head_dim)."""
    assert block_table is not None and len(block_table) == len(cu_seqlens_q) - 1 == len(cu_seqlens_k) - 1
    _check_layout(q, k, v, block_table, cu_seqlens_q, cu_seqlens_k)
    lengths_q, lengths_k = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert max(lengths_q) <= max_seqlen_q and max(lengths_k) <= max_seqlen_k, "the grid of the kernel would be small"
    assert cu_seqlens_q[0] == 0 and cu_seqlens_q[-1] == len(q)
    parts = zip(q.split(lengths_q), block_table, lengths_k, strict=True)
    return torch.cat([_attend(part, k, v, row, length, causal) for part, row, length in parts])


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: None = None,
    rotary_sin: None = None,
    cache_seqlens: Tensor | None = None,
    cache_batch_idx: None = None,
    cache_leftpad: None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor:
    """q: (batch, new, heads, head_dim); k, v: (batch, new, kv_heads, head_dim), stored behind cache_seqlens tokens."""
    assert k is not None and v is not None and cache_seqlens is not None and block_table is not None
    assert len(q) == len(k) == len(v) == len(cache_seqlens) == len(block_table) and q.shape[1] == k.shape[1]
    _check_layout(q, k_cache, v_cache, block_table, cache_seqlens)
    out: list[Tensor] = []
    for index, past in enumerate(cache_seqlens.tolist()):
        row, length = block_table[index], past + k.shape[1]
        slots = _slots(k_cache, row, length)[past:]
        k_cache.flatten(0, 1)[slots] = k[index]
        v_cache.flatten(0, 1)[slots] = v[index]
        out.append(_attend(q[index], k_cache, v_cache, row, length, causal))
    return torch.stack(out)


def _check_layout(q: Tensor, k: Tensor, v: Tensor, *int32: Tensor) -> None:
    assert k.shape == v.shape and k.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256"
    assert q.dtype == k.dtype == v.dtype and q.shape[-2] % k.shape[2] == 0 and q.shape[-1] == k.shape[-1] <= 256
    assert all(x.stride(-1) == 1 for x in (q, k, v, *int32)) and all(x.dtype == torch.int32 for x in int32)


def _slots(cache: Tensor, row: Tensor, length: int) -> Tensor:
    block_len = cache.shape[1]
    places = torch.arange(length)
    return row.long()[places // block_len] * block_len + places % block_len


def _attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, row: Tensor, length: int, causal: bool) -> Tensor:
    slots = _slots(k_cache, row, length)
    group = q.shape[1] // k_cache.shape[2]
    k, v = (cache.flatten(0, 1)[slots].repeat_interleave(group, dim=1) for cache in (k_cache, v_cache))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    if causal:  # aligned to the bottom right corner
        hidden = torch.ones(len(q), length, dtype=torch.bool).triu(length - len(q) + 1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
