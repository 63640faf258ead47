"""Decides how logits follow from token ids, for all three architectures; knows no files and no cache."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelkit.attention import Attention
from modelkit.config import DecoderConfig
from modelkit.rotary import Rotary, rotate

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # an Attention bound to one layer


class RMSNorm(nn.Module):
    """Scale each token to unit root mean square, in fp32. Source: Zhang and Sennrich, 2019."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, size). Same shape and dtype."""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class DecoderLayer(nn.Module):
    """One pre-norm block: attention, then SwiGLU, each added to its input.

    `qkv` holds the rows of q, k and v one after the other, `gate_up` those of gate and up: one product instead of
    three and two.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self._heads = (config.num_heads + config.num_kv_heads, config.num_kv_heads)  # those rotary turns, those of v
        self._num_heads, self._head_dim = config.num_heads, config.head_dim
        self.input_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.qkv = nn.Linear(config.hidden_size, sum(self._heads) * config.head_dim, bias=config.qkv_bias)
        self.o = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=config.o_bias)
        self.post_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """hidden: (tokens, hidden_size); rotary: the step's tables; attend: this layer's attention. Same shape."""
        hidden = hidden + self._attention(self.input_norm(hidden), rotary, attend)
        gate, up = self.gate_up(self.post_norm(hidden)).chunk(2, dim=-1)
        return hidden + self.down(F.silu(gate) * up)

    def _attention(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        heads = self.qkv(hidden).unflatten(-1, (-1, self._head_dim))  # (tokens, heads + 2 kv_heads, head_dim)
        turned, v = heads.split(self._heads, dim=1)
        turned = rotate(turned, *rotary)  # q and k in one go
        mixed = attend(turned[:, : self._num_heads], turned[:, self._num_heads :], v)
        return self.o(mixed.flatten(1))


class Decoder(nn.Module):
    """The network of Zhinao, Llama and Qwen2: pre-norm, rotary, grouped-query attention, SwiGLU.

    Tokens of all sequences of a step lie in one flat row, without batch dimension and padding. Built on the meta
    device it costs no memory; its weights come from modelkit.checkpoint.
    Source: the 360Zhinao technical report, and 360Zhinao's code for vLLM.
    """

    def __init__(self, config: DecoderConfig, num_outputs: int | None = None) -> None:
        """num_outputs: rows of a head that is not the vocabulary's."""
        super().__init__()
        self.config = config
        self._rotary = Rotary(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = nn.Linear(config.hidden_size, num_outputs or config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.embed.weight

    def forward(self, token_ids: Tensor, positions: Tensor, attention: Attention, rows: Tensor | None = None) -> Tensor:
        """Logits of the next token.

        token_ids, positions: (tokens,) int64, a position counts from 0 within its sequence. rows: (n,) int64, the
        tokens whose logits are wanted; None means all. Returns (n, vocab_size) fp32, or (n, num_outputs).
        """
        rotary = self._rotary.tables(positions)
        hidden = self.embed(token_ids)
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, rotary, partial(attention, index))
        chosen = hidden if rows is None else hidden[rows]
        return self.head(self.norm(chosen)).float()
