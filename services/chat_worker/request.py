"""The plain form of a generation request inside the worker; what is None was left to the model's defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from modelkit.conversation import Message, Tool
from services.chat_worker.engine.sequence import Priority


class CallMode(StrEnum):
    """Whether the model calls functions."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions of a request and whether they are called. name: with NAMED; parallel: several calls at once."""

    tools: tuple[Tool, ...] = ()
    mode: CallMode = CallMode.AUTO
    name: str = ""
    parallel: bool = True

    @property
    def offered(self) -> tuple[Tool, ...]:
        """What the model is told of."""
        return () if self.mode is CallMode.NONE else self.tools

    @property
    def is_forced(self) -> bool:
        """Whether the answer must be a call."""
        return self.mode in (CallMode.REQUIRED, CallMode.NAMED)


class FormatKind(StrEnum):
    """What the texts of an OutputFormat are."""

    JSON_OBJECT = "json_object"  # none is needed
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"  # the answers to choose from
    GRAMMAR = "grammar"  # in Lark's language


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The form that an answer must have."""

    kind: FormatKind
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, laid out by the model's chat template. values: what the template may ask for beside it."""

    messages: tuple[Message, ...]
    tools: ToolUse = ToolUse()
    values: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text, with no template. with_prefix: behind what the model puts before a raw text."""

    text: str
    with_prefix: bool = True


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, taken as they are."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation as asked for."""

    request_id: str
    model: str
    prompt: ChatPrompt | TextPrompt | TokenPrompt
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    do_sample: bool | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop_texts: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    top_logprobs: int | None = None
    truncate_prompt: bool = False
    format: OutputFormat | None = None
    n: int = 1
    priority: Priority = Priority.INTERACTIVE
    tenant: str = ""
    timeout_s: float | None = None
    speculate: bool | None = None
    prompt_logprobs: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    bad_token_ids: tuple[int, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    generated_token_ids: tuple[int, ...] = ()  # the beginning of the answer, from another worker
