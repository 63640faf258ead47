"""Decides what a request in the form of OpenAI's Responses API may hold; its answers' shapes are in response."""

from collections.abc import Generator
from typing import Annotated, Final, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from services.gateway.openai.fields import UNSUPPORTED, Items, Part, Text, check_unicode, example, only, renamed
from services.gateway.openai.generation import GenerationFields, Tokens
from services.gateway.openai.messages import TemplateValues
from services.gateway.openai.tools import ChoiceType, ChoiceWord, FunctionType, word_to_choice

_TEXT_KINDS: Final = ("input_text", "output_text", "reasoning_text")
_ROLES: Final = ("system", "developer", "user", "assistant")
_NEEDS: Final = {  # what an item must hold, by its type
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}


def _text_kind(kind: str) -> str:
    if kind not in _TEXT_KINDS:
        raise PydanticCustomError(UNSUPPORTED, "must be input_text or output_text: the models read nothing else")
    return kind


def _item_type(kind: str) -> str:
    if kind not in _NEEDS:
        raise PydanticCustomError(UNSUPPORTED, "must be one of {kinds}", {"kinds": ", ".join(_NEEDS)})
    return kind


def _role(role: str) -> str:
    if role not in _ROLES:
        raise PydanticCustomError("role", "must be one of {roles}", {"roles": ", ".join(_ROLES)})
    return role


class ResponseText(Part):
    """A piece of a text, also as an earlier answer held it."""

    type: Annotated[str, AfterValidator(_text_kind), WithJsonSchema({"enum": list(_TEXT_KINDS)})]
    text: Text
    annotations: list[object] | None = None
    logprobs: list[object] | None = None


def _to_texts(value: object) -> object:
    if isinstance(value, str):
        return [ResponseText(type="input_text", text=check_unicode(value))]
    if value is not None and not isinstance(value, list):
        raise PydanticCustomError("content_type", "must be a string or a list of text parts")
    return cast("list[object] | None", value)


Texts = Annotated[Items[ResponseText], BeforeValidator(_to_texts, json_schema_input_type=str | list[ResponseText])]


class InputItem(Part):
    """A turn, a call, or its result; also an item of an earlier answer's output, whose thinking has no effect."""

    type: Annotated[str, AfterValidator(_item_type), WithJsonSchema({"enum": list(_NEEDS)})] = "message"
    id: Text | None = None
    status: Text | None = None
    role: Annotated[str, AfterValidator(_role), WithJsonSchema({"enum": list(_ROLES)})] | None = Field(
        default=None, validate_default=True
    )
    content: Texts | None = Field(default=None, validate_default=True)
    call_id: Text | None = Field(default=None, validate_default=True)
    name: Text | None = Field(default=None, validate_default=True)
    arguments: Text | None = Field(default=None, validate_default=True)
    output: Texts | None = Field(default=None, validate_default=True)
    summary: list[object] | None = None

    @field_validator("role", "content", "call_id", "name", "arguments", "output")
    @classmethod
    def _is_there(cls, value: object, info: ValidationInfo) -> object:
        kind = info.data.get("type", "")
        if value is None and info.field_name in _NEEDS.get(kind, ()):
            raise PydanticCustomError("missing", "is required, as the type is {type}", {"type": kind})
        return value

    @property
    def text(self) -> str:
        """What a turn or a result says."""
        return "".join(
            part.text for part in (self.output if self.type == "function_call_output" else self.content) or ()
        )

    @override
    def ignored(self, path: str = "") -> Generator[str]:
        """See Part.ignored; thinking is ignored as a whole."""
        if self.type == "reasoning":
            yield path.removesuffix(".")
        else:
            yield from super().ignored(path)


def _to_items(value: object) -> object:
    if isinstance(value, str):
        return [InputItem(role="user", content=cast("list[ResponseText]", _to_texts(value)))]
    return value


class FunctionTool(Part):
    """A function that the model may call; strict changes nothing, as in FunctionDefinition."""

    type: FunctionType
    name: Text
    description: Text | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class FunctionChoice(Part):
    """Whether the model calls: none, auto and required are words in a request, function names one."""

    type: ChoiceType
    name: Text | None = None


_SentChoice = Annotated[
    FunctionChoice, BeforeValidator(word_to_choice, json_schema_input_type=ChoiceWord | FunctionChoice)
]


class TextFormat(Part):
    """The form that the answer must have. Answers keep to a schema whether or not strict is set."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Text | None = None
    json_schema: dict[str, object] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Part):
    """What the answer's text is to be like."""

    format: TextFormat | None = None


class ResponseRequest(GenerationFields):
    """Body of POST /v1/responses. Nothing is stored, so a conversation is sent whole each time.

    Source: OpenAI's API reference; the fields of GenerationFields that choose tokens are understood here too.
    """

    model_config = example({"model": "zhinao-chat", "input": "Who are you?", "max_output_tokens": 40}, streamed=True)

    input: Annotated[
        Items[InputItem],
        Field(min_length=1),
        BeforeValidator(_to_items, json_schema_input_type=str | Annotated[list[InputItem], Field(min_length=1)]),
    ]
    instructions: Text | None = None
    tools: Items[FunctionTool] | None = None
    tool_choice: _SentChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateValues | None = None
    text: TextConfig | None = None
    max_output_tokens: Tokens | None = None
    truncation: Literal["auto", "disabled"] | None = None

    # What would have to be kept here, or done by somebody else.
    previous_response_id: Annotated[object, only(None)] = None
    conversation: Annotated[object, only(None)] = None
    prompt: Annotated[object, only(None)] = None
    background: Annotated[object, only(False)] = None
    context_management: Annotated[object, only([])] = None
    include: Annotated[object, only([], ["reasoning.encrypted_content"])] = None  # the thinking is not encrypted
    max_tool_calls: Annotated[object, only(None)] = None
    moderation: Annotated[object, only(None)] = None
    top_logprobs: Annotated[object, only(0)] = None

    # What the other routes call by another name, or have alone.
    n: Annotated[int | None, only(1)] = None
    prompt_logprobs: Annotated[int | None, only(None)] = None
    max_tokens: Annotated[Tokens | None, renamed("max_output_tokens")] = None
    max_completion_tokens: Annotated[Tokens | None, renamed("max_output_tokens")] = None
    max_new_tokens: Annotated[Tokens | None, renamed("max_output_tokens")] = None
    truncate_prompt: Annotated[bool | None, renamed("truncation")] = None
