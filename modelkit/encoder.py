"""Decides what a BERT encoder computes over packed rows of tokens; knows no files and no pooling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Geometry and numerics of one encoder. Sizes are in elements, positions in tokens."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    norm_eps: float
    max_position_embeddings: int
    type_vocab_size: int

    @property
    def head_dim(self) -> int:
        """Components of one head."""
        return self.hidden_size // self.num_heads


# Mixes the tokens of each row: q, k, v (tokens, heads, head_dim) and the rows' lengths to (tokens, heads, head_dim).
RowAttention = Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor]


def row_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Let each token see all of its own row: the plainest RowAttention."""
    rows = zip(*(torch.split(x.transpose(0, 1), list(lengths), dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*row) for row in rows], dim=1).transpose(0, 1)


class EncoderLayer(nn.Module):
    """Attention, then two dense layers with an exact GELU between them, each added to its input and normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self._heads = (config.num_heads, config.head_dim)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.o = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, config.norm_eps)
        self.up = nn.Linear(hidden, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, hidden)
        self.output_norm = nn.LayerNorm(hidden, config.norm_eps)

    def forward(self, x: Tensor, lengths: Sequence[int], attention: RowAttention) -> Tensor:
        """x: (tokens, hidden). Returns the same shape."""
        q, k, v = (part.unflatten(1, self._heads) for part in self.qkv(x).chunk(3, dim=1))
        x = self.attention_norm(x + self.o(attention(q, k, v, lengths).flatten(1)))
        return self.output_norm(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """BERT without its pooler. Rows lie one after the other, without batch dimension and padding.

    Built on the meta device it costs no memory; its weights come from modelkit.encoder_checkpoint.
    Source: BERT (Devlin et al., 2019).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.types = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))

    def forward(
        self, token_ids: Tensor, type_ids: Tensor, lengths: Sequence[int], attention: RowAttention = row_attention
    ) -> Tensor:
        """The last hidden state of every token.

        token_ids, type_ids: (tokens,) int64. lengths: tokens of each row, in order; they sum to tokens. Returns
        (tokens, hidden_size).
        """
        positions = torch.cat([torch.arange(length, device=token_ids.device) for length in lengths])
        x = self.norm(self.words(token_ids) + self.positions(positions) + self.types(type_ids))
        for layer in self.layers:
            x = layer(x, lengths, attention)
        return x
