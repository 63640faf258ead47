"""The plain form of a generation request inside the worker; what is None was left to the model's defaults."""

from dataclasses import dataclass

from modelkit.conversation import Message


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, laid out by the model's chat template."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text, with no template."""

    text: str


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
