"""Reads the words of `zhinao up` into the mesh's options and refuses what it does not have yet; starts nothing."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cli.failures import UsageFailure
from mesh.plan import EdgeLimits, Model, ModelKind, Options
from meshkit.settings import TelemetrySettings
from modelkit.config import CheckpointError, check_kind, read_json

KINDS: Final[tuple[ModelKind, ...]] = ("chat", "embed", "rerank")
_DECODER_DTYPES: Final = ("auto", "fp32", "fp16", "bf16", "int8", "int4")
DTYPES: Final[Mapping[ModelKind, Sequence[str]]] = MappingProxyType(
    {"chat": _DECODER_DTYPES, "embed": ("auto", "fp32", "bf16", "int8"), "rerank": _DECODER_DTYPES}
)
_MODEL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")  # safe in a header, a URL, a label and a shell


@dataclass(frozen=True, slots=True)
class UpWords:
    """The command line as typed; see the help of `zhinao up`. sources: of --KIND-model, by kind."""

    host: str
    port: int
    sources: Mapping[ModelKind, str | None]
    models: Sequence[str]
    served_model_names: Sequence[str]
    dtypes: Mapping[ModelKind, str]
    max_model_len: int | None
    replicas: str
    num_gateways: int
    autoscale: str = ""
    limits: EdgeLimits = field(default_factory=EdgeLimits)
    insecure_no_keys: bool = False


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model before its weights are found. source: a folder, a name on Hugging Face, or None for the demo model."""

    id: str
    kind: ModelKind
    source: str | None


def wanted_models(words: UpWords) -> list[WantedModel]:
    """The models to serve; the first of each kind is its default one. Raises UsageFailure."""
    for kind, dtype in words.dtypes.items():
        if dtype not in DTYPES[kind]:
            raise UsageFailure(f"--{kind}-dtype {dtype}: expected one of {', '.join(DTYPES[kind])}")
    names = _served_model_names(words.served_model_names)
    named = [_parse_model(text) for text in words.models]
    wanted = [model for kind in KINDS for model in _of_kind(kind, words.sources[kind], names.get(kind), named)]
    ids = [model.id for model in wanted]
    for model_id in ids:
        if ids.count(model_id) > 1:
            raise UsageFailure(f"{ids.count(model_id)} models are called {model_id!r}; each needs an id of its own")
    replicas = read_replicas(words.replicas)
    return [model for model in wanted if replicas[model.kind]]


def _of_kind(kind: ModelKind, source: str | None, name: str | None, named: Sequence[WantedModel]) -> list[WantedModel]:
    """Those of --model, after the one of --KIND-model; the demo model if neither names any."""
    own = [model for model in named if model.kind == kind]
    if source is not None or not own:
        return [WantedModel(name or f"zhinao-{kind}", kind, source), *own]
    if name is not None:
        raise UsageFailure(f"--served-model-name names the model of --{kind}-model; --model carries its own id")
    return own


def read_replicas(text: str) -> dict[ModelKind, int]:
    """Read `chat=1,embed=0`: how many workers a model of each kind gets, 1 if it is not named. Raises UsageFailure."""
    return dict.fromkeys(KINDS, 1) | _read_numbers("--replicas", text)


def read_autoscale(text: str, replicas: Mapping[ModelKind, int]) -> dict[ModelKind, int]:
    """Read `chat=4`: how many workers a model of a kind gets at most. Raises UsageFailure."""
    most = _read_numbers("--autoscale", text)
    for kind, number in most.items():
        if number < max(1, replicas[kind]):
            raise UsageFailure(f"--autoscale {kind}={number}: there are {replicas[kind]} at the start (--replicas)")
    return most


def _read_numbers(option: str, text: str) -> dict[ModelKind, int]:
    numbers: dict[ModelKind, int] = {}
    for item in filter(None, text.split(",")):
        name, _, number = item.partition("=")
        if not number.isdecimal():
            raise UsageFailure(f"{option} {item!r}: expected KIND=NUMBER with KIND one of {', '.join(KINDS)}")
        numbers[_kind(name, f"{option} {item!r}: expected KIND=NUMBER")] = int(number)
    return numbers


def read_scale(words: Sequence[str]) -> dict[str, int]:
    """Read `chat=3`, `zhinao-embed=2`: how many workers a kind's models, or one model, get. Raises UsageFailure."""
    numbers: dict[str, int] = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if not name or not number.isdecimal():
            raise UsageFailure(f"{word!r}: expected KIND=NUMBER or MODEL=NUMBER, e.g. chat=3")
        numbers[name] = int(number)
    return numbers


def read_host(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of the edge; `localhost` is 127.0.0.1. Raises UsageFailure."""
    try:
        return ipaddress.ip_address("127.0.0.1" if text == "localhost" else text)
    except ValueError:
        raise UsageFailure(f"--host {text!r} is not an IP address, e.g. 127.0.0.1 or 0.0.0.0") from None


def to_options(words: UpWords, models: Sequence[Model], database_url: str | None = None) -> Options:
    """Join the words with the found models. Raises UsageFailure."""
    replicas = read_replicas(words.replicas)
    return Options(
        str(read_host(words.host)),
        words.port,
        tuple(models),
        dict(words.dtypes),
        words.max_model_len,
        words.num_gateways,
        database_url,
        replicas,
        read_autoscale(words.autoscale, replicas),
        words.limits,
        TelemetrySettings().exporter_otlp_endpoint,
    )


def check_checkpoint(model: Model) -> None:
    """Refuse at once what no worker of its kind can run; the worker reads it thoroughly. Raises UsageFailure."""
    config = Path(model.path) / "config.json"
    if not config.is_file():
        raise UsageFailure(f"model {model.id!r}: {model.path} is no checkpoint, it has no config.json")
    try:
        check_kind(read_json(config), model.kind)
    except CheckpointError as error:
        raise UsageFailure(f"model {model.id!r}: {config} cannot be served for {model.kind}: {error}") from None


def _served_model_names(names: Sequence[str]) -> dict[ModelKind, str]:
    found: dict[ModelKind, str] = {}
    for name in names:
        word, _, model_id = name.partition("=")
        wanted = f"--served-model-name {name!r}: expected KIND=ID, e.g. chat=my-model,"
        if not model_id:
            raise UsageFailure(f"{wanted} with KIND one of {', '.join(KINDS)}")
        found[_kind(word, wanted)] = _checked_id(model_id)
    return found


def _parse_model(text: str) -> WantedModel:
    model_id, _, rest = text.partition("=")
    word, _, path = rest.partition(":")
    wanted = f"--model {text!r}: expected ID=KIND:PATH"
    if not path:
        raise UsageFailure(f"{wanted} with KIND one of {', '.join(KINDS)}")
    kind = _kind(word, wanted)
    return WantedModel(_checked_id(model_id), kind, path)


def _kind(word: str, wanted: str) -> ModelKind:
    for kind in KINDS:
        if word == kind:
            return kind
    raise UsageFailure(f"{wanted} with KIND one of {', '.join(KINDS)}")


def _checked_id(model_id: str) -> str:
    if not _MODEL_ID.fullmatch(model_id):
        raise UsageFailure(
            f"model id {model_id!r}: use at most 128 letters, digits, '.', '_', '-' and '/', beginning with a letter "
            "or a digit"
        )
    return model_id
