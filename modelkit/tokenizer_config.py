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
        template_file = folder / "chat_template.jinja"
        named = {name: text for name in _NAMES if (text := _token_text(settings.get(name))) is not None}
        return cls(
            named_tokens=MappingProxyType(named),
            chat_template=template_file.read_text("utf-8")
            if template_file.is_file()
            else _default_template(settings.get("chat_template")),
        )


def _read_object(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold a JSON object, found {type(content).__name__}")
    return cast("dict[str, object]", content)


def _token_text(value: object) -> str | None:
    match value:
        case str(text) | {"content": str(text)}:
            return text
        case _:
            return None


def _default_template(value: object) -> str | None:
    match value:
        case str():
            return value
        case list():
            named = cast("list[dict[str, str]]", value)
            return next((entry["template"] for entry in named if entry.get("name") == "default"), None)
        case _:
            return None
