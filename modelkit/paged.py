"""Keeps keys and values in a pool of blocks and runs steps over it; does not decide who gets which blocks."""

from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from modelkit.attention import Attention
from modelkit.config import DecoderConfig
from modelkit.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a step that belongs to one sequence.

    token_ids: those computed in this step, the last ones of the context. start: tokens of the context before them.
    block_ids: where the context lies in the pool, in order, room for the new tokens included. num_logits: how many of
    the last tokens of the segment are followed by a choice.
    """

    token_ids: Rows[int]
    start: int
    block_ids: Rows[int]
    num_logits: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """What one step computes: the new tokens of several sequences in one flat row.

    token_ids, positions: (tokens,) int64; a position counts from 0 within its sequence. num_new, context_lens:
    (sequences,) int32, a context includes the new tokens. block_tables: (sequences, blocks) int32, short rows filled up
    with 0. rows: (n,) int64, the tokens whose logits are wanted.
    """

    token_ids: Tensor
    positions: Tensor
    num_new: Tensor
    context_lens: Tensor
    block_tables: Tensor
    rows: Tensor

    @classmethod
    def build(cls, segments: Rows[Segment]) -> Self:
        """Lay the segments' tokens one after the other."""
        token_ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        widest = max(len(segment.block_ids) for segment in segments)
        for segment in segments:
            token_ids += segment.token_ids
            positions += range(segment.start, segment.start + len(segment.token_ids))
            rows += range(len(token_ids) - segment.num_logits, len(token_ids))
        return cls(
            torch.tensor(token_ids),
            torch.tensor(positions),
            torch.tensor([len(segment.token_ids) for segment in segments], dtype=torch.int32),
            torch.tensor([segment.start + len(segment.token_ids) for segment in segments], dtype=torch.int32),
            torch.tensor([[*s.block_ids, *[0] * (widest - len(s.block_ids))] for s in segments], dtype=torch.int32),
            torch.tensor(rows, dtype=torch.int64),
        )

    def to(self, device: torch.device) -> Self:
        """The same step on a device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))


class PagedModel(Protocol):
    """A decoder with its KV cache in blocks: what the engine runs, whatever computes it."""

    def forward(self, step: Step, /) -> Tensor:
        """Compute a step, all of it on the CPU, and keep its keys and values.

        Returns (rows, vocab_size) fp32 logits, on the CPU whatever computed them.
        """
        ...

    def copy_block(self, source: int, target: int, /) -> None:
        """Copy what one block holds, in every layer, into another."""
        ...


class KVPool:
    """Keys and values of every layer in fixed blocks.

    keys, values: (layers, blocks, block_len, kv_heads, head_dim). Pages that were never written cost address space,
    not memory.
    """

    def __init__(self, config: DecoderConfig, *, num_blocks: int, block_len: int, like: Tensor) -> None:
        """like: whose dtype and device the pool takes."""
        shape = (config.num_layers, num_blocks, block_len, config.num_kv_heads, config.head_dim)
        self.block_len = block_len
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)

    def copy_block(self, source: int, target: int) -> None:
        """See PagedModel."""
        self.keys[:, target] = self.keys[:, source]
        self.values[:, target] = self.values[:, source]


class PagedAttention:
    """Attention of one step over a KVPool: the plain reference, one call of torch's SDPA per sequence.

    Each sequence sees exactly its own slots, so its result does not depend on its neighbours. Copies the context once
    per layer: a step costs O(context) memory traffic per sequence.
    """

    def __init__(self, pool: KVPool, step: Step) -> None:
        self._pool = pool
        self._lengths = [int(length) for length in step.num_new.cpu()]
        context_lens = [int(length) for length in step.context_lens.cpu()]
        offsets = torch.arange(pool.block_len, device=step.block_tables.device)
        slots = (step.block_tables.long()[:, :, None] * pool.block_len + offsets).flatten(1)  # (sequences, slots)
        self._slots = [row[:context] for row, context in zip(slots, context_lens, strict=True)]
        pairs = list(zip(self._slots, self._lengths, strict=True))
        self._new_slots = torch.cat([row[-num_new:] for row, num_new in pairs])
        self._masks = [_causal_mask(num_new, row) for row, num_new in pairs]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v of the new tokens, then let each new token see its own past.

        q: (tokens, heads, head_dim). k, v: (tokens, kv_heads, head_dim). Returns (tokens, heads, head_dim).
        """
        keys, values = self._pool.keys[layer].flatten(0, 1), self._pool.values[layer].flatten(0, 1)
        keys.index_copy_(0, self._new_slots, k)
        values.index_copy_(0, self._new_slots, v)
        parts = zip(torch.split(q, self._lengths), self._slots, self._masks, strict=True)
        return torch.cat([_attend(rows, keys[slots], values[slots], mask) for rows, slots, mask in parts])


class PagedDecoder:
    """The reference PagedModel: the plain decoder over a KVPool, on the device and in the dtype of its weights.

    attention: made for each step, then called for each layer.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        num_blocks: int,
        block_len: int,
        attention: Callable[[KVPool, Step], Attention] = PagedAttention,
    ) -> None:
        self._decoder = decoder
        self._attention = attention
        self._pool = KVPool(decoder.config, num_blocks=num_blocks, block_len=block_len, like=decoder.embed.weight)
        self.device = decoder.embed.weight.device

    def forward(self, step: Step) -> Tensor:
        """See PagedModel."""
        return self.compute(step.to(self.device)).cpu()

    @torch.inference_mode()
    def compute(self, step: Step) -> Tensor:
        """As forward, with the step and the logits on the model's own device."""
        return self._decoder(step.token_ids, step.positions, self._attention(self._pool, step), step.rows)

    def copy_block(self, source: int, target: int) -> None:
        """See PagedModel."""
        self._pool.copy_block(source, target)


def _causal_mask(num_new: int, slots: Tensor) -> Tensor | None:
    """(new, context) bool, True where a new token may look; None when one token sees everything."""
    if num_new == 1:
        return None
    context = len(slots)
    return slots.new_ones((num_new, context), dtype=torch.bool).tril(context - num_new)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    heads_first = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # (1, heads, tokens, head_dim)
    out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return out.squeeze(0).transpose(0, 1)
