"""Encodes packs of rows on a GPU; knows no texts. It has never run on one: this project's machines have none."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modelkit.encoder import Encoder, RowAttention, row_attention
from modelkit.flash import FlashKernels, find_flash_kernels
from modelkit.precision import Precision
from modelkit.sentence import Pooling, pool


class PackedRowEncoder:
    """A RowEncoder that computes all its rows in one forward of plain torch, without padding, where the weights are."""

    def __init__(self, encoder: Encoder, precision: Precision, attention: RowAttention) -> None:
        self.config, self.precision = encoder.config, precision
        self.computed_by = f"torch on {encoder.words.weight.device}"
        self._encoder, self._attention = encoder, attention

    @torch.inference_mode()
    def pool(self, rows: Sequence[Sequence[int]], pooling: Pooling, second_from: Sequence[int] | None = None) -> Tensor:
        """See RowEncoder."""
        lengths = [len(row) for row in rows]
        firsts = lengths if second_from is None else second_from
        types = [0 if i < first else 1 for length, first in zip(lengths, firsts, strict=True) for i in range(length)]
        ids = [token_id for row in rows for token_id in row]
        device = self._encoder.words.weight.device
        tokens, type_ids = (torch.tensor(each, device=device) for each in (ids, types))
        hidden = self._encoder(tokens, type_ids, lengths, self._attention).float()
        return torch.stack([pool(row, pooling) for row in torch.split(hidden, lengths)]).cpu()


def cuda_row_encoder(encoder: Encoder, precision: Precision, device: torch.device) -> PackedRowEncoder:
    """Move an encoder to a GPU in a floating-point format; flash-attn mixes its rows where it can run."""
    dtype = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}[precision]
    kernels = find_flash_kernels(device, dtype)
    return PackedRowEncoder(
        encoder.to(device, dtype), precision, flash_attention(kernels) if kernels else row_attention
    )


def flash_attention(kernels: FlashKernels) -> RowAttention:
    """All rows in one call of flash-attn."""

    def attend(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
        ends = torch.tensor([0, *lengths], device=q.device).cumsum(0, dtype=torch.int32)
        sizes = {"cu_seqlens_q": ends, "cu_seqlens_k": ends, "max_seqlen_q": max(lengths), "max_seqlen_k": max(lengths)}
        return kernels.flash_attn_varlen_func(q, k, v, **sizes, causal=False)

    return attend
