"""Decides which tensors each architecture's checkpoint holds, by name and shape, and counts them; loads no torch."""

from collections.abc import Iterator
from math import prod

from modelkit.config import Architecture, DecoderConfig


def tensor_shapes(config: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor that a checkpoint with this config must hold, in file order.

    One by one, so that a config which claims a billion layers costs nothing: its first missing tensor ends the search.
    Source: 360Zhinao's checkpoints for Zhinao, transformers' module names for the others.
    """
    embedding = (config.vocab_size, config.hidden_size)
    yield "model.embed_tokens.weight", embedding
    for index in range(config.num_layers):
        for name, shape in _layer_shapes(config).items():
            yield f"model.layers.{index}.{name}", shape
    yield "model.norm.weight", (config.hidden_size,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", embedding


def num_parameters(config: DecoderConfig) -> int:
    """How many numbers a checkpoint with this config holds."""
    return sum(prod(shape) for _, shape in tensor_shapes(config))


def kv_bytes_per_token(config: DecoderConfig, itemsize: int) -> int:
    """What one token takes in the KV cache, in numbers of itemsize bytes."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize


def _layer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    if config.architecture is Architecture.ZHINAO:
        projections = {"qkv_proj": q_rows + 2 * kv_rows}
    else:
        projections = {"q_proj": q_rows, "k_proj": kv_rows, "v_proj": kv_rows}
    shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
    for name, num_rows in projections.items():
        shapes[f"self_attn.{name}.weight"] = (num_rows, hidden)
        if config.qkv_bias:
            shapes[f"self_attn.{name}.bias"] = (num_rows,)
    shapes["self_attn.o_proj.weight"] = (hidden, q_rows)
    if config.o_bias:
        shapes["self_attn.o_proj.bias"] = (hidden,)
    return shapes | {
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
