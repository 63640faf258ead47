"""Runs the attention of a step on flash-attn's two paged kernels, where they can run; decides nothing about blocks."""

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Final, Protocol, cast

import torch
from torch import Tensor

from modelkit.paged import KVPool, Step

log = logging.getLogger(__name__)

FLASH_BLOCK_LEN: Final = 256  # both kernels refuse a paged cache whose block length is no multiple of it
_DTYPES: Final = (torch.float16, torch.bfloat16)
_AMPERE: Final = (8, 0)  # the oldest compute capability that flash-attn 2 supports


class FlashKernels(Protocol):
    """What is used of flash-attn 2.8, whose module `flash_attn` is one; causal masks end at the bottom right corner."""

    flash_attn_varlen_func: Callable[..., Tensor]
    flash_attn_with_kvcache: Callable[..., Tensor]


class FlashAttention:
    """Attention of one step over a KVPool whose block length is a multiple of FLASH_BLOCK_LEN.

    Makes no copy of the context and never waits for the device, so that a CUDA graph can record it: the longest new
    part and the longest context, which the kernels want as numbers, are bounded by the step's shapes.
    """

    def __init__(self, pool: KVPool, step: Step, kernels: FlashKernels) -> None:
        self._pool, self._kernels, self._block_table = pool, kernels, step.block_tables
        num_sequences, num_tokens = len(step.num_new), len(step.token_ids)
        self._decodes = num_tokens == num_sequences  # one token each
        if self._decodes:
            self._past_lens = step.context_lens - 1
            return
        self._max_new = num_tokens - num_sequences + 1
        self._max_context = step.block_tables.shape[1] * pool.block_len
        self._new_ends, self._context_ends = _ends(step.num_new), _ends(step.context_lens)
        indices = torch.arange(num_sequences, device=step.num_new.device)
        owners = torch.repeat_interleave(indices, step.num_new, output_size=num_tokens)  # whose token it is
        blocks = step.block_tables[owners, step.positions // pool.block_len]
        self._slots = blocks * pool.block_len + step.positions % pool.block_len  # (tokens,) int64

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See PagedAttention."""
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        if self._decodes:
            q, k, v = (x.unsqueeze(1) for x in (q, k, v))  # (sequences, 1, heads, head_dim)
            return self._kernels.flash_attn_with_kvcache(
                *(q, keys, values, k, v),  # it stores k and v itself
                cache_seqlens=self._past_lens,
                block_table=self._block_table,
                causal=True,
            ).squeeze(1)
        keys.flatten(0, 1).index_copy_(0, self._slots, k)
        values.flatten(0, 1).index_copy_(0, self._slots, v)
        return self._kernels.flash_attn_varlen_func(
            *(q, keys, values),
            cu_seqlens_q=self._new_ends,
            cu_seqlens_k=self._context_ends,
            max_seqlen_q=self._max_new,
            max_seqlen_k=self._max_context,
            causal=True,
            block_table=self._block_table,
        )


def find_flash_kernels(device: torch.device, dtype: torch.dtype) -> FlashKernels | None:
    """flash-attn, or None where it cannot run: a CPU, a GPU before Ampere, fp32, or not installed."""
    if device.type != "cuda":
        return None
    if dtype not in _DTYPES or torch.cuda.get_device_capability(device) < _AMPERE:
        log.warning("flash-attn needs fp16 or bf16 and an Ampere GPU: attention of %s runs on torch's SDPA", dtype)
        return None
    try:
        return cast(FlashKernels, import_module("flash_attn"))
    except ImportError as error:
        log.warning("attention runs on torch's SDPA, one call per sequence, for want of flash-attn: %s", error)
        return None


def _ends(lengths: Tensor) -> Tensor:
    """(sequences + 1,) int32: where each sequence begins and, last, where all end."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
