"""Translates functions and calls between OpenAI's JSON and protobuf."""

from collections.abc import Iterable, Sequence
from typing import Final

from meshkit.errors import MeshError, Reason
from services.gateway.openai.tools import MadeCall, ToolCall, ToolCallDelta, ToolChoice, ToolDefinition
from services.gateway.translate.formats import to_json
from zhinao.chat.v1 import chat_pb2

_MODES: Final = {
    "none": chat_pb2.ToolChoice.MODE_NONE,
    "auto": chat_pb2.ToolChoice.MODE_AUTO,
    "required": chat_pb2.ToolChoice.MODE_REQUIRED,
}


def to_tools(tools: Iterable[ToolDefinition]) -> list[chat_pb2.Tool]:
    """The definitions; what their schemas may hold is the worker's to judge."""
    return [
        chat_pb2.Tool(
            name=tool.function.name,
            description=tool.function.description or "",
            parameters_schema=_schema(tool.function.parameters, f"tools[{number}].function.parameters"),
        )
        for number, tool in enumerate(tools)
    ]


def to_tool_choice(choice: ToolChoice | None) -> chat_pb2.ToolChoice | None:
    """Whether to call, and what; MeshError for the type function without a function."""
    if choice is None:
        return None
    if choice.type in _MODES:
        return chat_pb2.ToolChoice(mode=_MODES[choice.type])
    if choice.function is None:
        message = "tool_choice.function is required, as the type is function"
        raise MeshError(Reason.INVALID_REQUEST, message, param="tool_choice.function")
    return chat_pb2.ToolChoice(mode=chat_pb2.ToolChoice.MODE_NAMED, name=choice.function.name)


def to_made_calls(calls: Iterable[MadeCall]) -> list[chat_pb2.ToolCall]:
    """The calls of an earlier answer."""
    return [chat_pb2.ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments) for call in calls]


def to_call_deltas(deltas: Sequence[chat_pb2.ToolCallDelta]) -> list[ToolCallDelta]:
    """What is new of an answer's calls."""
    return [_to_delta(delta) for delta in deltas]


def to_calls(deltas: Iterable[chat_pb2.ToolCallDelta]) -> list[ToolCall]:
    """The calls of an answer whose deltas are all there."""
    calls: list[ToolCall] = []
    for delta in deltas:
        if delta.index == len(calls):
            calls.append({"id": delta.id, "type": "function", "function": {"name": delta.name, "arguments": ""}})
        calls[delta.index]["function"]["arguments"] += delta.arguments
    return calls


def _to_delta(delta: chat_pb2.ToolCallDelta) -> ToolCallDelta:
    if not delta.name:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    return {
        "index": delta.index,
        "id": delta.id,
        "type": "function",
        "function": {"name": delta.name, "arguments": delta.arguments},
    }


def _schema(parameters: dict[str, object] | None, param: str) -> str:
    return "" if parameters is None else to_json(parameters, param)
