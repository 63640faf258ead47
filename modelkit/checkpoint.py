"""Decides how a checkpoint folder becomes a decoder, or why it cannot; knows no file formats."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Self

import torch
from torch import Tensor, nn

from modelkit.config import Architecture, CheckpointError, DecoderConfig, read_config
from modelkit.decoder import Decoder
from modelkit.layout import split_qkv
from modelkit.shapes import tensor_shapes
from modelkit.weights import StoredTensor, open_weights, read_finite

DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
)

# Each parameter of a layer but qkv, and the tensors in the file whose rows it holds one after the other.
_LAYER_PARTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "input_norm.weight": ("input_layernorm.weight",),
        "o.weight": ("self_attn.o_proj.weight",),
        "post_norm.weight": ("post_attention_layernorm.weight",),
        "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "down.weight": ("mlp.down_proj.weight",),
    }
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose tensors were all found in the shapes that its config asks for; none is read yet.

    head: (outputs, hidden_size), what stands in for the vocabulary's; None for most.
    """

    config: DecoderConfig
    tensors: Mapping[str, StoredTensor]
    head: Tensor | None = None

    @classmethod
    def open(cls, folder: Path, *, extras: Collection[str] = ()) -> Self:
        """Check the folder. Raises CheckpointError naming file and tensor when it is not whole or does not fit.

        Rotary buffers, and the head of a tied model, may be there and are left out: they follow from the rest.
        extras: tensors that may be there beside the decoder's, in any shape.
        """
        config = read_config(folder)
        stored = open_weights(folder)
        tensors: dict[str, StoredTensor] = {}
        for name, shape in tensor_shapes(config):
            if name not in stored:
                raise CheckpointError(f"{folder} lacks the tensor {name} of shape {shape}")
            found = stored[name]
            if found.shape != shape:
                raise CheckpointError(f"{found.file}: {name} has shape {found.shape}, the config asks for {shape}")
            tensors[name] = found
        tensors |= {name: stored[name] for name in extras if name in stored}
        for name in sorted(stored.keys() - tensors.keys()):
            if ".rotary_emb." not in name and not (name == "lm_head.weight" and config.tie_word_embeddings):
                raise CheckpointError(f"{stored[name].file}: {name} is a tensor that {config.architecture} lacks")
        return cls(config, tensors)

    def with_head(self, head: Tensor) -> Self:
        """The same checkpoint with another head, (outputs, hidden_size): its decoder answers those."""
        return replace(self, config=replace(self.config, tie_word_embeddings=False), head=head)

    def read(self, name: str) -> Tensor:
        """One tensor, in the dtype it is stored in; a view of the mapped file where the format allows.

        Raises CheckpointError when it cannot be read, is not of a plain floating-point dtype, or holds NaN or infinity.
        """
        return read_finite(name, self.tensors[name])

    def qkv(self, layer: int, kind: Literal["weight", "bias"]) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's query, key and value projection apart from each other, whichever way the file holds them."""
        prefix = f"model.layers.{layer}.self_attn"
        if self.config.architecture is Architecture.ZHINAO:
            return split_qkv(self.read(f"{prefix}.qkv_proj.{kind}"), self.config)
        q, k, v = (self.read(f"{prefix}.{letter}_proj.{kind}") for letter in "qkv")
        return q, k, v


def load_decoder(folder: Path, dtype: str = "fp32") -> Decoder:
    """Build the decoder of a checkpoint folder; see build_decoder."""
    _require_known(dtype)
    return build_decoder(Checkpoint.open(folder), dtype)


def build_decoder(checkpoint: Checkpoint, dtype: str = "fp32") -> Decoder:
    """Build the decoder of a checkpoint with its weights in `dtype`, one of DTYPES.

    Files are mapped and copied tensor by tensor, so memory peaks near the size of the model. No code from the folder
    is run. Raises CheckpointError naming file and tensor when the folder is not whole or does not fit its config.
    """
    _require_known(dtype)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config, None if checkpoint.head is None else len(checkpoint.head))
    weights = {name: nn.Parameter(tensor.to(DTYPES[dtype])) for name, tensor in parameters(checkpoint)}
    if checkpoint.config.tie_word_embeddings:  # one Parameter under two names stays tied; a copy would not
        weights["head.weight"] = weights["embed.weight"]
    decoder.load_state_dict(weights, assign=True)
    return decoder.eval()


def parameters(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the Decoder by its name, copied out of the files one by one, in the dtype they are stored in.

    A tied model has no head.weight of its own.
    """
    config, read = checkpoint.config, checkpoint.read
    yield "embed.weight", read("model.embed_tokens.weight").clone()
    for layer in range(config.num_layers):
        target, source = f"layers.{layer}", f"model.layers.{layer}"
        for name, parts in _LAYER_PARTS.items():
            yield f"{target}.{name}", torch.cat([read(f"{source}.{part}") for part in parts])
        yield f"{target}.qkv.weight", torch.cat(checkpoint.qkv(layer, "weight"))
        if config.qkv_bias:
            yield f"{target}.qkv.bias", torch.cat(checkpoint.qkv(layer, "bias"))
        if config.o_bias:
            yield f"{target}.o.bias", read(f"{source}.self_attn.o_proj.bias").clone()
    yield "norm.weight", read("model.norm.weight").clone()
    if checkpoint.head is not None:
        yield "head.weight", checkpoint.head
    elif not config.tie_word_embeddings:
        yield "head.weight", read("lm_head.weight").clone()


def _require_known(dtype: str) -> None:
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}, must be one of {sorted(DTYPES)}")
