"""Reads the words of `zhinao up` into the mesh's options and refuses what it does not have yet; starts nothing."""

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.failures import UsageFailure
from mesh.plan import Model, Options

DEFAULT_CHAT_ID: Final = "zhinao-chat"
KINDS: Final = ("chat", "embed", "rerank")
CHAT_DTYPES: Final = ("auto", "fp32", "fp16", "bf16", "int8", "int4")
_MODEL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")  # safe in a header, a URL, a label and a shell


@dataclass(frozen=True, slots=True)
class UpWords:
    """The command line as typed; see the help of `zhinao up`."""

    host: str
    port: int
    chat_model: str | None
    models: Sequence[str]
    served_model_names: Sequence[str]
    chat_dtype: str
    max_model_len: int | None
    replicas: str


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model before its weights are found. source: a folder, a name on Hugging Face, or None for the demo model."""

    id: str
    source: str | None


def wanted_models(words: UpWords) -> list[WantedModel]:
    """The chat models to serve; the first is the default one. Raises UsageFailure."""
    if words.chat_dtype not in CHAT_DTYPES:
        raise UsageFailure(f"--chat-dtype {words.chat_dtype}: expected one of {', '.join(CHAT_DTYPES)}")
    chat_id = _served_chat_id(words.served_model_names)
    wanted = [_parse_model(text) for text in words.models]
    if words.chat_model is not None or not wanted:
        wanted.insert(0, WantedModel(chat_id, words.chat_model))
    elif words.served_model_names:
        raise UsageFailure("--served-model-name names the model of --chat-model; --model carries its own id")
    ids = [model.id for model in wanted]
    for model_id in ids:
        if ids.count(model_id) > 1:
            raise UsageFailure(f"{ids.count(model_id)} models are called {model_id!r}; each needs an id of its own")
    return wanted if chat_replicas(words.replicas) else []


def chat_replicas(text: str) -> int:
    """Read `chat=1,embed=0`: how many chat workers a model gets, 0 or 1. Raises UsageFailure."""
    chat = 1
    for item in filter(None, text.split(",")):
        kind, _, number = item.partition("=")
        if kind not in KINDS or not number.isdecimal():
            raise UsageFailure(f"--replicas {item!r}: expected KIND=NUMBER with KIND one of {', '.join(KINDS)}")
        if int(number) > (1 if kind == "chat" else 0):
            raise UsageFailure(f"not available yet: --replicas {item} (only chat=0 and chat=1)")
        if kind == "chat":
            chat = int(number)
    return chat


def to_options(words: UpWords, models: Sequence[Model]) -> Options:
    """Join the words with the found models. Raises UsageFailure."""
    try:
        host = str(ipaddress.ip_address("127.0.0.1" if words.host == "localhost" else words.host))
    except ValueError:
        raise UsageFailure(f"--host {words.host!r} is not an IP address, e.g. 127.0.0.1 or 0.0.0.0") from None
    return Options(host, words.port, tuple(models), words.chat_dtype, words.max_model_len)


def check_chat_checkpoint(folder: Path, model_id: str) -> None:
    """Refuse at once what is no checkpoint at all; the worker reads it thoroughly. Raises UsageFailure."""
    config = folder / "config.json"
    if not config.is_file():
        raise UsageFailure(f"model {model_id!r}: {folder} is no checkpoint, it has no config.json")
    try:
        json.loads(config.read_bytes())
    except ValueError as error:
        raise UsageFailure(f"model {model_id!r}: {config} is not valid JSON: {error}") from None


def _served_chat_id(names: Sequence[str]) -> str:
    chat_id = DEFAULT_CHAT_ID
    for name in names:
        kind, _, model_id = name.partition("=")
        if kind not in KINDS or not model_id:
            raise UsageFailure(f"--served-model-name {name!r}: expected KIND=ID, e.g. chat=my-model")
        if kind != "chat":
            raise UsageFailure(f"not available yet: --served-model-name {name} (only chat)")
        chat_id = _checked_id(model_id)
    return chat_id


def _parse_model(text: str) -> WantedModel:
    model_id, _, rest = text.partition("=")
    kind, _, path = rest.partition(":")
    if kind not in KINDS or not path:
        raise UsageFailure(f"--model {text!r}: expected ID=KIND:PATH with KIND one of {', '.join(KINDS)}")
    if kind != "chat":
        raise UsageFailure(f"not available yet: --model {text} (only chat models)")
    return WantedModel(_checked_id(model_id), path)


def _checked_id(model_id: str) -> str:
    if not _MODEL_ID.fullmatch(model_id):
        raise UsageFailure(
            f"model id {model_id!r}: use at most 128 letters, digits, '.', '_', '-' and '/', beginning with a letter "
            "or a digit"
        )
    return model_id
