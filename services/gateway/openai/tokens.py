"""Decides what tokenise and detokenise requests in vLLM's form may hold, and names the shape of their answers."""

from typing import Annotated, NotRequired, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from services.gateway.openai.fields import UINT32_MAX, Items, RequestBody, Text, example, only
from services.gateway.openai.messages import Message, TemplateValues
from services.gateway.openai.tools import ToolDefinition


class TokenizeRequest(RequestBody):
    """Body of POST /tokenize: a prompt, or messages. Source: vLLM's API reference."""

    model_config = example({"prompt": "The sky is blue."})

    prompt: Text | None = None
    messages: Annotated[Items[Message], Field(min_length=1)] | None = None
    tools: Items[ToolDefinition] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: Annotated[object, only(True)] = None
    continue_final_message: Annotated[object, only(False)] = None
    chat_template: Annotated[object, only(None)] = None
    chat_template_kwargs: TemplateValues | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("tokenize", "must hold either prompt or messages")
        return self


class DetokenizeRequest(RequestBody):
    """Body of POST /detokenize. Source: vLLM's API reference."""

    model_config = example({"tokens": [40, 41, 42]})

    tokens: Items[Annotated[int, Field(ge=0, le=UINT32_MAX)]]


class TokenizeAnswer(TypedDict):
    """The tokens of a prompt. token_strs: what each adds to the text, U+FFFD for parts of a character."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: NotRequired[list[str]]


class DetokenizeAnswer(TypedDict):
    """The text of tokens."""

    prompt: str
