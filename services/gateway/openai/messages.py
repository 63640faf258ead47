"""Decides what a turn of a conversation may hold."""

from typing import Annotated, Final, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from services.gateway.openai.fields import UNSUPPORTED, Items, Part, Text, check_unicode, only
from services.gateway.openai.tools import MadeCall

_OWN_NAMES: Final = frozenset(
    {"add_generation_prompt", "chat_template", "continue_final_message", "documents", "messages", "tokenize", "tools"}
)
ROLES: Final = ("system", "developer", "user", "assistant", "tool")


def _known_role(role: str) -> str:
    if role in ROLES:
        return role
    if role == "function":
        raise PydanticCustomError(UNSUPPORTED, "is an old name; send tool, with tool_call_id")
    raise PydanticCustomError("role", "must be one of {roles}", {"roles": ", ".join(ROLES)})


def _text_part(kind: str) -> str:
    if kind != "text":
        raise PydanticCustomError(UNSUPPORTED, "must be text: the models read nothing else")
    return kind


def _without_own_names(values: dict[str, object]) -> dict[str, object]:
    for name in _OWN_NAMES & values.keys():
        raise PydanticCustomError("template_values", "must not hold {name}: it is no variable here", {"name": name})
    return values


# Variables of the model's chat template, beside those that the mesh sets.
TemplateValues = Annotated[
    dict[str, object],
    AfterValidator(_without_own_names),
    WithJsonSchema(
        {"type": "object", "additionalProperties": True, "propertyNames": {"not": {"enum": sorted(_OWN_NAMES)}}}
    ),
]


class TextPart(Part):
    """A piece of a message."""

    type: Annotated[str, AfterValidator(_text_part), WithJsonSchema({"const": "text"})]
    text: Text


def _to_parts(content: object) -> object:
    if isinstance(content, str):
        return [TextPart(type="text", text=check_unicode(content))]  # checked here: a client sent no part to name
    if not isinstance(content, list):
        raise PydanticCustomError("content_type", "must be a string or a list of text parts")
    return cast("list[object]", content)


class Message(Part):
    """One turn."""

    role: Annotated[str, AfterValidator(_known_role), WithJsonSchema({"enum": ROLES})]
    tool_calls: Items[MadeCall] | None = None
    tool_call_id: Text | None = Field(default=None, validate_default=True)
    content: Annotated[
        Items[TextPart],
        BeforeValidator(_to_parts, json_schema_input_type=str | list[TextPart] | None),
        Field(description="Null only of the assistant's: it called functions, or was cut short in its thinking."),
    ]
    function_call: Annotated[object, only(None)] = None  # given up by OpenAI for tool_calls
    audio: Annotated[object, only(None)] = None

    @model_validator(mode="before")
    @classmethod
    def _assistant_may_have_said_nothing(cls, turn: object) -> object:
        if not isinstance(turn, dict):
            return turn
        fields = cast("dict[str, object]", turn)
        is_silent = fields.get("role") == "assistant" and fields.get("content") is None
        return {**fields, "content": []} if is_silent else fields

    @field_validator("tool_calls")
    @classmethod
    def _only_by_assistant(cls, calls: list[MadeCall] | None, info: ValidationInfo) -> list[MadeCall] | None:
        if calls and info.data.get("role") != "assistant":
            raise PydanticCustomError("tool_calls", "must be left out, as the role is not assistant")
        return calls

    @field_validator("tool_call_id")
    @classmethod
    def _given_by_tool(cls, call_id: str | None, info: ValidationInfo) -> str | None:
        if call_id is None and info.data.get("role") == "tool":
            raise PydanticCustomError("missing", "is required, as the role is tool")
        return call_id
