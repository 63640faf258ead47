"""Decides how a checkpoint folder becomes an encoder, or why it cannot; knows no tokenizer and no pooling."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from modelkit.config import ENCODERS, CheckpointError, architecture_of, count, number, read_json
from modelkit.encoder import Encoder, EncoderConfig
from modelkit.weights import StoredTensor, open_weights, read_finite

# Keys that change the result in a way this network does not have, with the only value it takes.
_ONLY: Final[Mapping[str, object]] = MappingProxyType(
    {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
)
# Each module of the Encoder, and the modules of the file whose rows it holds one after the other.
_EMBEDDINGS: Final[Mapping[str, str]] = MappingProxyType(
    {"words": "word_embeddings", "positions": "position_embeddings", "types": "token_type_embeddings"}
)
_LAYER: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
        "o": ("attention.output.dense",),
        "attention_norm": ("attention.output.LayerNorm",),
        "up": ("intermediate.dense",),
        "down": ("output.dense",),
        "output_norm": ("output.LayerNorm",),
    }
)


@dataclass(frozen=True, slots=True)
class EncoderCheckpoint:
    """A folder whose encoder tensors were all found in the shapes that its config asks for; none is read yet.

    tensors: all in the files, by name without the prefix `bert.`: also those of heads, such as `pooler.dense.weight`
    and `classifier.weight`. raw: config.json.
    """

    config: EncoderConfig
    tensors: Mapping[str, StoredTensor]
    raw: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Check the folder. Raises CheckpointError naming file and tensor when it is not whole or does not fit."""
        file = folder / "config.json"
        raw = read_json(file)
        try:
            config = parse_encoder_config(raw)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from error
        tensors = {_plain_name(name): stored for name, stored in open_weights(folder).items()}
        for name, parts in parameter_sources(config):
            for part, shape in parts.items():
                if part not in tensors:
                    raise CheckpointError(f"{folder} lacks the tensor {part} of shape {shape}, a part of {name}")
                if tensors[part].shape != shape:
                    found = tensors[part]
                    raise CheckpointError(f"{found.file}: {part} has shape {found.shape}, config asks for {shape}")
        return cls(config, tensors, raw)

    def read(self, name: str) -> Tensor:
        """One tensor as fp32. Raises CheckpointError when it is not there or not made of finite floats."""
        if name not in self.tensors:
            raise CheckpointError(f"the checkpoint lacks the tensor {name}")
        return read_finite(name, self.tensors[name]).float()

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter of the Encoder by its name, fp32, copied out of the files one by one."""
        for name, parts in parameter_sources(self.config):
            yield name, torch.cat([self.read(part) for part in parts])


def load_encoder(checkpoint: EncoderCheckpoint) -> Encoder:
    """Build the fp32 encoder of a checkpoint."""
    with torch.device("meta"):
        encoder = Encoder(checkpoint.config)
    weights = {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in checkpoint.parameters()}
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval()


def parse_encoder_config(raw: Mapping[str, Any]) -> EncoderConfig:
    """Read a BERT config.json. Raises CheckpointError naming the key and its value."""
    architecture_of(raw, ENCODERS)
    for key, allowed in _ONLY.items():
        if raw.get(key, allowed) != allowed:
            raise CheckpointError(f"{key} is {raw[key]!r}, only {allowed!r} is supported")
    config = EncoderConfig(
        vocab_size=count(raw, "vocab_size"),
        hidden_size=count(raw, "hidden_size"),
        num_layers=count(raw, "num_hidden_layers"),
        num_heads=count(raw, "num_attention_heads"),
        intermediate_size=count(raw, "intermediate_size"),
        norm_eps=number(raw, "layer_norm_eps", 1e-12),
        max_position_embeddings=count(raw, "max_position_embeddings"),
        type_vocab_size=count(raw, "type_vocab_size", 2),
    )
    if config.hidden_size % config.num_heads:
        raise CheckpointError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_heads}"
        )
    return config


def parameter_sources(config: EncoderConfig) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Each parameter of the Encoder, with the tensors of a file that make it up and their shapes, in order."""
    hidden, inner = config.hidden_size, config.intermediate_size
    rows = {"words": config.vocab_size, "positions": config.max_position_embeddings, "types": config.type_vocab_size}
    for target, source in _EMBEDDINGS.items():
        yield f"{target}.weight", {f"embeddings.{source}.weight": (rows[target], hidden)}
    for kind in ("weight", "bias"):
        yield f"norm.{kind}", {f"embeddings.LayerNorm.{kind}": (hidden,)}
    weights = {"qkv": (hidden, hidden), "o": (hidden, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    for index in range(config.num_layers):
        for target, sources in _LAYER.items():
            shape = weights.get(target, (hidden,))
            prefix = f"encoder.layer.{index}"
            yield f"layers.{index}.{target}.weight", {f"{prefix}.{part}.weight": shape for part in sources}
            yield f"layers.{index}.{target}.bias", {f"{prefix}.{part}.bias": shape[:1] for part in sources}


def _plain_name(name: str) -> str:
    """What transformers calls it today: the first BERTs had gamma and beta in their norms."""
    plain = name.removeprefix("bert.")
    return plain.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
