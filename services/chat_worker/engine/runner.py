"""Computes one step of the model; decides nothing about who runs and what is chosen."""

import torch
from torch import Tensor

from modelkit.decoder import Decoder
from modelkit.paged import KVPool, PagedAttention, Segment
from services.chat_worker.engine.scheduler import Chunk


class ModelRunner:
    """Turns chunks into flat tensors, runs the decoder over the KV pool, and returns the logits that are needed."""

    def __init__(self, decoder: Decoder, pool: KVPool, *, block_len: int) -> None:
        self._decoder = decoder
        self._pool = pool
        self._offsets = torch.arange(block_len)
        self._block_len = block_len

    @torch.inference_mode()
    def run(self, chunks: list[Chunk]) -> Tensor:
        """Compute the chunks together. Returns (sampling chunks, vocab) fp32 logits, in the chunks' order."""
        segments = [Segment(chunk.num_tokens, self._slots(chunk)) for chunk in chunks]
        token_ids, positions, rows = _flatten(chunks)
        return self._decoder(token_ids, positions, PagedAttention(self._pool, segments), rows)

    def _slots(self, chunk: Chunk) -> Tensor:
        """(context,) where each token up to the chunk's end lies in the pool."""
        blocks = torch.tensor(chunk.sequence.block_ids)
        slots = blocks[:, None] * self._block_len + self._offsets  # (blocks, block_len)
        return slots.flatten()[: chunk.sequence.num_computed + chunk.num_tokens]


def _flatten(chunks: list[Chunk]) -> tuple[Tensor, Tensor, Tensor]:
    """The chunks' tokens and positions one after the other, and the rows whose logits are wanted."""
    token_ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    for chunk in chunks:
        start = chunk.sequence.num_computed
        stop = start + chunk.num_tokens
        token_ids += chunk.sequence.token_ids[start:stop]
        positions += range(start, stop)
        if chunk.samples:
            rows.append(len(token_ids) - 1)
    return torch.tensor(token_ids), torch.tensor(positions), torch.tensor(rows, dtype=torch.int64)
