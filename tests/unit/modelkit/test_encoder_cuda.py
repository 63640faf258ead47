"""The way a GPU encodes, on the CPU: packs of rows, and what flash-attn is asked."""

from pathlib import Path

import torch
from torch import Tensor

from modelkit.encoder import row_attention
from modelkit.encoder_checkpoint import EncoderCheckpoint, load_encoder
from modelkit.encoder_cuda import PackedRowEncoder, flash_attention
from modelkit.precision import Precision
from modelkit.row_encoder import TorchRowEncoder
from modelkit.sentence import Pooling
from tests.fixtures.tiny_bert import save_tiny_bert

ROWS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]


class FakeFlash:
    """flash-attn's varlen kernel in plain torch."""

    @staticmethod
    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, *, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, causal: bool, **longest: int
    ) -> Tensor:
        assert not causal and set(longest.values()) == {5} and cu_seqlens_q.dtype is torch.int32
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        return row_attention(q, k, v, cu_seqlens_q.diff().tolist())


def test_packed_rows_have_the_vectors_of_rows_alone(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path)
    encoder = load_encoder(EncoderCheckpoint.open(tmp_path))
    packed = PackedRowEncoder(encoder, Precision.FP32, flash_attention(FakeFlash()))
    for pooling in Pooling:
        expected = TorchRowEncoder(encoder).pool(ROWS, pooling, [2, 1, 3])
        torch.testing.assert_close(packed.pool(ROWS, pooling, [2, 1, 3]), expected, rtol=0, atol=1e-5)
