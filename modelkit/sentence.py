"""Decides how a checkpoint folder wants a text to become one vector; knows no network and no request."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import torch
from torch import Tensor

from modelkit.config import CheckpointError, count, read_json
from modelkit.encoder import EncoderConfig

# 360Zhinao-search's model card. Its folder does not say it; its vocabulary of Chinese BERT is what gives it away.
_CHINESE_VOCABULARY: Final = 21_128
_CHINESE_QUERY_INSTRUCTION: Final = "为这个句子生成表示以用于检索相关文章："
_PASSAGE_PROMPTS: Final = ("document", "passage", "corpus")  # sentence-transformers asks for the first that is there


class Pooling(IntEnum):
    """What of a row's last hidden states becomes its vector; the values are those of api.h."""

    CLS = 0
    MEAN = 1
    MAX = 2


_POOLINGS: Final[Mapping[str, Pooling]] = MappingProxyType(
    {"cls": Pooling.CLS, "mean": Pooling.MEAN, "max": Pooling.MAX}
)
_OLD_POOLINGS: Final[Mapping[str, str]] = MappingProxyType(
    {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max"}
)


@dataclass(frozen=True, slots=True)
class SentenceConfig:
    """How texts become vectors. max_tokens: of a row with its frame. lowercase: texts are lowered first."""

    weights_folder: Path
    pooling: Pooling = Pooling.CLS
    normalize: bool = True
    max_tokens: int | None = None
    lowercase: bool = False
    query_instruction: str = ""
    passage_instruction: str = ""


def read_sentence_config(folder: Path) -> SentenceConfig:
    """Read a sentence-transformers folder, or a plain one, which means CLS pooling and vectors of length one.

    Raises CheckpointError naming file and value when it asks for what we do not do.
    """
    file = folder / "modules.json"
    if not file.exists():
        chinese = read_json(folder / "config.json").get("vocab_size") == _CHINESE_VOCABULARY
        return SentenceConfig(folder, query_instruction=_CHINESE_QUERY_INSTRUCTION if chinese else "")
    modules = _read_modules(file)
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(f"{file}: modules are {kinds}, must be Transformer, Pooling and perhaps Normalize")
    weights_folder, pooling_folder = (folder / path for _, path in modules[:2])
    transformer = _read_optional(weights_folder / "sentence_bert_config.json")
    prompts = _read_prompts(folder / "config_sentence_transformers.json")
    return SentenceConfig(
        weights_folder=weights_folder,
        pooling=_read_pooling(pooling_folder / "config.json"),
        normalize="Normalize" in kinds,
        max_tokens=count(transformer, "max_seq_length") if transformer.get("max_seq_length") is not None else None,
        lowercase=transformer.get("do_lower_case") is True,
        query_instruction=prompts.get("query", ""),
        passage_instruction=next((prompts[name] for name in _PASSAGE_PROMPTS if name in prompts), ""),
    )


def max_row_tokens(sentence: SentenceConfig, config: EncoderConfig) -> int:
    """The longest row that the folder allows: its own limit, never more than there are positions."""
    return min(sentence.max_tokens or config.max_position_embeddings, config.max_position_embeddings)


def pool(hidden: Tensor, pooling: Pooling) -> Tensor:
    """One row's last hidden states, (tokens, hidden), become (hidden,).

    Source: Sentence-BERT (Reimers and Gurevych, 2019), section 3.
    """
    match pooling:
        case Pooling.CLS:
            return hidden[0]
        case Pooling.MEAN:
            return hidden.mean(dim=0)
        case Pooling.MAX:
            return torch.amax(hidden, dim=0)


def _read_modules(file: Path) -> list[tuple[str, str]]:
    """Class and folder of each module."""
    try:
        modules: Any = json.loads(file.read_bytes())
        return [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file} is no list of modules with type and path: {error!r}") from error


def _read_pooling(file: Path) -> Pooling:
    raw = read_json(file)
    named: object = raw.get("pooling_mode") or [name for key, name in _OLD_POOLINGS.items() if raw.get(key)]
    modes = cast(list[object], named) if isinstance(named, list) else [named]
    others = sorted(key for key in raw if key.startswith("pooling_mode_") and raw[key] and key not in _OLD_POOLINGS)
    known = [pooling for name, pooling in _POOLINGS.items() if modes == [name]]
    if not known or others or raw.get("include_prompt") is False:
        raise CheckpointError(f"{file}: pooling is {others or modes}, must be one of {sorted(_POOLINGS)} of all tokens")
    return known[0]


def _read_prompts(file: Path) -> dict[str, str]:
    """The prompts by name; the default one stands in for those that are not there."""
    raw = _read_optional(file)
    prompts: object = raw.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str) for text in cast(dict[str, object], prompts).values()
    ):
        raise CheckpointError(f"{file}: prompts is {prompts!r}, must be texts by name")
    named = cast(dict[str, str], prompts)
    default = named.get(raw.get("default_prompt_name") or "", "")
    return {"query": default, "document": default} | named if default else named


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}
