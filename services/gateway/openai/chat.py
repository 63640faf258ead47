"""Decides what a chat completion request may hold, and names the shape of its answers."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from services.gateway.openai.fields import Items, example, only
from services.gateway.openai.generation import FinishReasonWord, GenerationFields
from services.gateway.openai.messages import Message, TemplateValues
from services.gateway.openai.scores import PromptLogprob
from services.gateway.openai.tools import ToolCall, ToolCallDelta, ToolChoiceField, ToolDefinition
from services.gateway.openai.usage import UsageBody


class ChatCompletionRequest(GenerationFields):
    """Body of POST /v1/chat/completions."""

    model_config = example(
        {"model": "zhinao-chat", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 40},
        streamed=True,
    )

    messages: Items[Message] = Field(min_length=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Items[ToolDefinition] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[object, only(["text"])] = None
    audio: Annotated[object, only(None)] = None
    web_search_options: Annotated[object, only(None)] = None
    chat_template: Annotated[object, only(None)] = None
    chat_template_kwargs: TemplateValues | None = None
    documents: Annotated[object, only([])] = None
    add_generation_prompt: Annotated[object, only(True)] = None
    continue_final_message: Annotated[object, only(False)] = None
    functions: Annotated[object, only([])] = None  # given up by OpenAI for tools
    function_call: Annotated[object, only("none")] = None


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
    refusal: str | None  # always null, as nothing tells refusals from answers


class AssistantMessage(TypedDict):
    """A whole answer; content is null if it holds calls or thinking and no text. reasoning_content is DeepSeek's."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None  # always null, as nothing tells refusals from answers
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One of the answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReasonWord


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
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallDelta]]


class ChunkChoice(TypedDict):
    """What a chunk adds to one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReasonWord | None


class ChatChunk(TypedDict):
    """One event of a streamed answer; usage is null until the chunk that holds it, and absent if nobody asked."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[UsageBody | None]
