"""Decides what a chat completion request may hold, and names the shape of its answers."""

from typing import Annotated, Final, Literal, NotRequired, TypedDict, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from services.gateway.openai.fields import UNSUPPORTED, Text, check_unicode, only
from services.gateway.openai.generation import GenerationFields
from services.gateway.openai.scores import PromptLogprob
from services.gateway.openai.usage import UsageBody

ROLES: Final = ("system", "developer", "user", "assistant")
_TOOL_ROLES: Final = ("tool", "function")


def _known_role(role: str) -> str:
    if role in ROLES:
        return role
    if role in _TOOL_ROLES:
        raise PydanticCustomError(UNSUPPORTED, "must not be a tool: the models call none")
    raise PydanticCustomError("role", "must be one of {roles}", {"roles": ", ".join(ROLES)})


def _text_part(kind: str) -> str:
    if kind != "text":
        raise PydanticCustomError(UNSUPPORTED, "must be text: the models read nothing else")
    return kind


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(strict=True)

    type: Annotated[str, AfterValidator(_text_part)]
    text: Text


def _to_parts(content: object) -> object:
    if isinstance(content, str):
        return [TextPart(type="text", text=check_unicode(content))]  # checked here: a client sent no part to name
    if not isinstance(content, list):
        raise PydanticCustomError("content_type", "must be a string or a list of text parts")
    return cast("list[object]", content)


class Message(BaseModel):
    """One turn. Other fields of OpenAI's message (name, refusal, ...) say nothing to these models."""

    model_config = ConfigDict(strict=True)

    role: Annotated[str, AfterValidator(_known_role)]
    content: Annotated[list[TextPart], BeforeValidator(_to_parts)]
    tool_calls: Annotated[object, only([])] = None


class ChatCompletionRequest(GenerationFields):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Annotated[object, only([])] = None
    tool_choice: Annotated[object, only("none")] = None
    functions: Annotated[object, only([])] = None
    function_call: Annotated[object, only("none")] = None
    parallel_tool_calls: object = None


class TopLogprob(TypedDict):
    """One token and its log-probability; bytes are the token's own, which may be part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """One token of the answer with its alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log-probabilities of a piece of an answer."""

    content: list[ChatTokenLogprob]
    refusal: None


class AssistantMessage(TypedDict):
    """A whole answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One of the answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(TypedDict):
    """Answer to a chat completion request that does not stream."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageBody
    prompt_logprobs: NotRequired[list[dict[str, PromptLogprob] | None]]


class Delta(TypedDict):
    """What a chunk adds to the answer."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChunkChoice(TypedDict):
    """What a chunk adds to one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(TypedDict):
    """One event of a streamed answer; usage is null until the chunk that holds it, and absent if nobody asked."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[UsageBody | None]
