"""Decides which decoder a folder's config.json describes and whether we can run it; knows no tensors."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message names the file, the tensor or key, and the values."""


class Architecture(StrEnum):
    """The checkpoint layouts we read; all three are one network (see modelkit.decoder)."""

    ZHINAO = "ZhinaoForCausalLM"
    LLAMA = "LlamaForCausalLM"
    QWEN2 = "Qwen2ForCausalLM"


ENCODERS: Final = ("BertModel", "BertForSequenceClassification", "BertForMaskedLM")  # see modelkit.encoder_checkpoint
CROSS_ENCODER: Final = "BertForSequenceClassification"  # the one of them that ranks


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's stretching of slow RoPE frequencies. Source: rope_type "llama3" of its config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Geometry and numerics of one decoder. Sizes are in elements, positions in tokens."""

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool


# What the Zhinao configuration class says where its config.json is silent. Source: configuration_zhinao.py.
_ZHINAO_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    }
)
# Keys that change the result in a way this network does not have, with the values that switch them off.
_ONLY: Final[Mapping[str, tuple[object, ...]]] = MappingProxyType(
    {
        "hidden_act": ("silu",),
        "mlp_bias": (False,),
        "use_sliding_window": (False,),
        "quantization_config": (None,),
        "partial_rotary_factor": (None, 1.0),
    }
)


def read_config(folder: Path) -> DecoderConfig:
    """Read `folder`/config.json. Remote code it may point to (auto_map) is never looked at.

    Raises CheckpointError naming the key and its value when the file is missing or broken, or asks for something
    this network does not do.
    """
    file = folder / "config.json"
    raw = read_json(file)
    try:
        return parse_config(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object. Raises CheckpointError."""
    try:
        content: object = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not {type(content).__name__}")
    return cast(dict[str, Any], content)


def parse_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Build the config from the content of a config.json. Raises CheckpointError naming key and value."""
    architecture = Architecture(architecture_of(raw, [known.value for known in Architecture]))
    if architecture is Architecture.ZHINAO:
        raw = {**_ZHINAO_DEFAULTS, **raw}
    _refuse_unsupported(raw)
    num_heads, hidden_size = count(raw, "num_attention_heads"), count(raw, "hidden_size")
    if raw.get("head_dim") is None and hidden_size % num_heads:
        raise CheckpointError(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}")
    rope = {**_section(raw, "rope_scaling"), **_section(raw, "rope_parameters")}  # older and newer spelling
    llama_bias = architecture is Architecture.LLAMA and _flag(raw, "attention_bias")
    config = DecoderConfig(
        architecture=architecture,
        vocab_size=count(raw, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=count(raw, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=count(raw, "num_key_value_heads", num_heads),
        head_dim=count(raw, "head_dim", hidden_size // num_heads),
        intermediate_size=count(raw, "intermediate_size"),
        norm_eps=number(raw, "rms_norm_eps", 1e-6),
        rope_theta=number(rope, "rope_theta", number(raw, "rope_theta", 10000.0)),
        rope_scaling=_rope_scaling(rope),
        max_position_embeddings=count(raw, "max_position_embeddings"),
        tie_word_embeddings=_flag(raw, "tie_word_embeddings"),
        qkv_bias=llama_bias or architecture is not Architecture.LLAMA,
        o_bias=llama_bias,
    )
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"num_attention_heads {config.num_heads} is not a multiple of num_key_value_heads {config.num_kv_heads}"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"head_dim {config.head_dim} is odd: rotary embedding turns pairs")
    return config


def check_kind(raw: Mapping[str, Any], kind: Literal["chat", "embed", "rerank"]) -> None:
    """Whether the content of a config.json describes what a worker of that kind runs. Raises CheckpointError."""
    if kind == "embed":
        if "architectures" in raw:  # a sentence encoder's weights may be in a folder of their own, with their config
            architecture_of(raw, ENCODERS)
    elif kind == "chat" or raw.get("architectures") != [CROSS_ENCODER]:
        parse_config(raw)


def architecture_of(raw: Mapping[str, Any], known: Sequence[str]) -> str:
    """The one architecture that a config.json names. Raises CheckpointError if it is none of the known."""
    named = raw.get("architectures")
    if named not in [[name] for name in known]:
        raise CheckpointError(f"architectures is {named!r}, must be one of {list(known)}")
    return named[0]


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    for key, allowed in _ONLY.items():
        if key in raw and raw[key] not in allowed:
            raise CheckpointError(f"{key} is {raw[key]!r}, only {allowed[-1]!r} is supported")
    layer_types: object = raw.get("layer_types") or []
    if not isinstance(layer_types, list) or any(kind != "full_attention" for kind in cast(list[object], layer_types)):
        raise CheckpointError(f"layer_types is {layer_types!r}, only a list of 'full_attention' is supported")


def _rope_scaling(rope: Mapping[str, Any]) -> Llama3Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(f"rope_type is {kind!r}, only 'default' and 'llama3' are supported")
    return Llama3Scaling(
        factor=number(rope, "factor"),
        low_freq_factor=number(rope, "low_freq_factor"),
        high_freq_factor=number(rope, "high_freq_factor"),
        original_max_position_embeddings=count(rope, "original_max_position_embeddings"),
    )


def _section(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    value: object = raw.get(key)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"{key} is {value!r}, must be an object")
    return cast(dict[str, Any], value or {})


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value: object = raw.get(key, False)
    if not isinstance(value, bool):
        raise CheckpointError(f"{key} is {value!r}, must be true or false")
    return value


def count(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number; a key that is absent or null takes the default."""
    value = raw.get(key) if raw.get(key) is not None else default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{key} is {value!r}, must be a positive whole number")
    return value


def number(raw: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A positive finite number; a key that is absent or null takes the default."""
    value = raw.get(key) if raw.get(key) is not None else default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise CheckpointError(f"{key} is {value!r}, must be a positive finite number")
    return float(value)
