"""Decides how a request may define functions and tell of calls, and names the shape of calls in answers."""

from typing import Annotated, Final, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from services.gateway.openai.fields import UNSUPPORTED, Part, Text

_CHOICES: Final = ("none", "auto", "required")


def _function_type(kind: str) -> str:
    if kind != "function":
        raise PydanticCustomError(UNSUPPORTED, "must be function: the models call nothing else")
    return kind


FunctionType = Annotated[str, AfterValidator(_function_type), WithJsonSchema({"const": "function"})]
ChoiceType = Annotated[
    str,
    AfterValidator(lambda kind: kind if kind in _CHOICES else _function_type(kind)),
    WithJsonSchema({"enum": [*_CHOICES, "function"]}),
]
ChoiceWord = Literal["none", "auto", "required"]


class FunctionDefinition(Part):
    """A function. Forced calls keep to its parameters' schema whether or not strict is set."""

    name: Text
    description: Text | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class ToolDefinition(Part):
    """Something that the model may call."""

    type: FunctionType
    function: FunctionDefinition


class FunctionName(Part):
    """Which function."""

    name: Text


class ToolChoice(Part):
    """Whether the model calls: none, auto and required are words in a request, function names one."""

    type: ChoiceType
    function: FunctionName | None = None


def word_to_choice(value: object) -> object:
    """A choice in one word as an object of that type; anything else as it is."""
    if not isinstance(value, str):
        return value
    if value not in _CHOICES:
        raise PydanticCustomError("tool_choice", "must be none, auto, required, or name a function")
    return {"type": value}


ToolChoiceField = Annotated[
    ToolChoice,
    BeforeValidator(word_to_choice, json_schema_input_type=ChoiceWord | ToolChoice),
]


class CalledFunction(Part):
    """Name and arguments of a call that was made; the arguments are JSON as the model wrote it."""

    name: Text
    arguments: Text


class MadeCall(Part):
    """A call in an earlier answer."""

    id: Text
    type: FunctionType = "function"
    function: CalledFunction


class FunctionDelta(TypedDict):
    """What is new of a function's call: its name comes first."""

    name: NotRequired[str]
    arguments: str


class ToolCallDelta(TypedDict):
    """What is new of a call: id and type come with its first part."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Function(TypedDict):
    """Name and arguments of a call; the arguments are JSON."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call."""

    id: str
    type: Literal["function"]
    function: Function
