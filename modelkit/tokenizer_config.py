"""Reads what `tokenizer_config.json` and `chat_template.jinja` say beside the vocabulary; knows no token ids."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self, cast

_NAMES: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """The settings of a Hugging Face tokenizer that change ids. All are absent in a folder without the files.

    named_tokens: the texts of `bos_token`, `eos_token` and their like.
    chat_template: Jinja source; the file `chat_template.jinja` goes before the setting.
    """

    named_tokens: Mapping[str, str]
    chat_template: str | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises ValueError naming the file that is no JSON object or no UTF-8."""
        settings = _read_object(folder / "tokenizer_config.json")
        named = {name: text for name in _NAMES if (text := _token_text(settings.get(name))) is not None}
        template = _read_text(folder / "chat_template.jinja") or _default_template(settings.get("chat_template"))
        return cls(MappingProxyType(named), template)


def _read_text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no UTF-8: {error}") from error


def _read_object(path: Path) -> dict[str, object]:
    content = _read_text(path)
    if content is None:
        return {}
    try:
        settings = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path.name} must hold a JSON object, found {type(settings).__name__}")
    return cast("dict[str, object]", settings)


def _token_text(value: object) -> str | None:
    match value:
        case str(text) | {"content": str(text)}:
            return text
        case _:
            return None


def _default_template(value: object) -> str | None:
    """The setting is one template, or a list of named ones."""
    for entry in cast("list[object]", value) if isinstance(value, list) else [value]:
        match entry:
            case str(template) | {"name": "default", "template": str(template)}:
                return template
            case _:
                pass
    return None
