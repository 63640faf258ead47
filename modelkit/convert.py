"""Decides how a checkpoint is rewritten in another architecture's layout; changes no number in it."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from modelkit.checkpoint import Checkpoint
from modelkit.config import Architecture, CheckpointError, DecoderConfig, read_json
from modelkit.folder import new_folder
from modelkit.layout import fuse_qkv

_MODEL_TYPES: Final = {Architecture.ZHINAO: "zhinao", Architecture.QWEN2: "qwen2"}
# Keys of a config.json that say nothing about the network but belong to whoever loads it.
_KEPT_KEYS: Final = ("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "torch_dtype", "dtype")
_COPIED_SUFFIXES: Final = (".json", ".jinja", ".txt", ".model", ".tiktoken")  # tokenizer, template, generation; no code


def convert_checkpoint(source: Path, target: Path, architecture: Architecture) -> None:
    """Write `source` again in `target`, in the layout of `architecture`: Zhinao, or Qwen2, which others can load.

    Both have a bias on q, k and v; it is zero where the source has none. Numbers and dtypes stay as they are, so
    there and back is exact. Tokenizer and generation files come along, code does not. The target appears whole or not
    at all. Raises CheckpointError when the source is not sound or does not fit, FileExistsError for a taken target.
    """
    if architecture not in _MODEL_TYPES:
        raise CheckpointError(f"cannot write {architecture}, only {[known.value for known in _MODEL_TYPES]}")
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    checkpoint = Checkpoint.open(source)
    if checkpoint.config.o_bias:
        raise CheckpointError(f"{source} has a bias on o_proj, {architecture} has no place for it")
    with new_folder(target) as folder:
        save_file(_tensors(checkpoint, architecture), folder / "model.safetensors", metadata={"format": "pt"})
        config = replace(checkpoint.config, architecture=architecture)
        content = _config_json(config, read_json(source / "config.json"))
        (folder / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        _copy_companions(source, folder)


def _tensors(checkpoint: Checkpoint, architecture: Architecture) -> dict[str, Tensor]:
    """Every tensor of the target; only the q, k and v projections differ from the source."""
    tensors = {
        name: checkpoint.read(name)
        for name in checkpoint.tensors
        if "self_attn.o_proj" in name or "self_attn" not in name
    }
    for layer in range(checkpoint.config.num_layers):
        weights = checkpoint.qkv(layer, "weight")
        biases = checkpoint.qkv(layer, "bias") if checkpoint.config.qkv_bias else _zero_biases(weights)
        prefix = f"model.layers.{layer}.self_attn"
        for kind, parts in (("weight", weights), ("bias", biases)):
            if architecture is Architecture.ZHINAO:
                tensors[f"{prefix}.qkv_proj.{kind}"] = fuse_qkv(*parts, checkpoint.config)
                continue
            for letter, part in zip("qkv", parts, strict=True):
                tensors[f"{prefix}.{letter}_proj.{kind}"] = part.clone()  # a view of the fused one cannot be saved
    return tensors


def _zero_biases(weights: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.zeros(len(weight), dtype=weight.dtype) for weight in weights)
    return q, k, v


def _config_json(config: DecoderConfig, source: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {key: source[key] for key in _KEPT_KEYS if key in source}
    content |= {
        "architectures": [config.architecture.value],
        "model_type": _MODEL_TYPES[config.architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    if config.rope_scaling is not None:
        content["rope_scaling"] = {"rope_type": "llama3", **asdict(config.rope_scaling)}
    return content


def _copy_companions(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        name = file.relative_to(source)
        is_ours = file.name == "config.json" or file.name.endswith(".index.json")
        if file.is_file() and file.suffix in _COPIED_SUFFIXES and not is_ours and not str(name).startswith("."):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / name)
