"""Decides what a text completion request may hold, and names the shape of its answers."""

from typing import Annotated, Literal, NotRequired, cast

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from services.gateway.openai.fields import Items, SentTokenIds, check_unicode, example, is_token_ids, only
from services.gateway.openai.generation import FinishReasonWord, GenerationFields
from services.gateway.openai.scores import PromptLogprob
from services.gateway.openai.usage import UsageBody

Prompt = str | list[int]
_SentPrompt = str | SentTokenIds


def _to_prompts(value: object) -> list[object]:
    """Wrap a single text or list of token ids; it is checked here, as a client sent no list to name a place of."""
    if isinstance(value, list):
        items = cast("list[object]", value)
        if items and set(map(type, items)) <= {str, list}:
            return items
        value = items
    return [_to_prompt(value)]


def _to_prompt(value: object) -> Prompt:
    if isinstance(value, str):
        return check_unicode(value)
    if is_token_ids(value):
        return value
    raise PydanticCustomError("prompt_type", "must be a string or a list of token ids that holds at least one")


class CompletionRequest(GenerationFields):
    """Body of POST /v1/completions."""

    model_config = example({"model": "zhinao-chat", "prompt": "The sky is", "max_tokens": 8}, streamed=True)

    prompt: Annotated[
        Items[Annotated[Prompt, PlainValidator(_to_prompt, json_schema_input_type=_SentPrompt)]],
        BeforeValidator(
            _to_prompts,
            json_schema_input_type=_SentPrompt | Annotated[list[_SentPrompt], Field(min_length=1, max_length=128)],
        ),
    ]
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = None
    suffix: Annotated[str | None, only("")] = None
    best_of: Annotated[int | None, only(1)] = None


class CompletionLogprobs(TypedDict):
    """Log-probabilities of a piece of an answer: four lists of one entry per token; offsets are in characters.

    The first token of a prompt that is echoed has none.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One of the answers, or what an event adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReasonWord | None
    prompt_logprobs: NotRequired[list[dict[str, PromptLogprob] | None]]


class Completion(TypedDict):
    """Answer to a text completion request; also one event of a streamed one, with usage as in ChatChunk."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[UsageBody | None]
