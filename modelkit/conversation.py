"""States what a conversation is, shortens one, and spells functions for models whose template has no words for them."""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

CALL_START: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"
THOUGHT_START: Final = "<think>"
THOUGHT_END: Final = "</think>"
_INTRODUCTION: Final = (  # Hermes' words; models of many families were trained on them
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{signatures}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    f"{CALL_START}{CALL_END} XML tags:\n"
    f'{CALL_START}\n{{{{"name": <function-name>, "arguments": <args-json-object>}}}}\n{CALL_END}'
)


class CallForm(StrEnum):
    """How a model writes a call: a JSON object between Hermes' tags, or an answer that is nothing but the object."""

    TAGGED = "tagged"
    BARE = "bare"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. parameters: the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, object]

    @property
    def signature(self) -> dict[str, object]:
        """The definition in OpenAI's form, which is what templates expect."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {key: value for key, value in function.items() if value != ""}}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that was made. arguments: as JSON, or what the model wrote in its place."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. role: system, user, assistant or tool. tool_calls: an assistant's; tool_call_id: a tool's."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


def spell_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation in system, user and assistant turns only, with functions, calls and results as text.

    Functions are added to the first system turn; results that follow each other share one user turn.
    Source: the Hermes function-calling format, in the words of Qwen2.5's template.
    """
    turns: list[Message] = [_with_signatures(messages, tools)] if tools else []
    after_result = False
    for message in messages[1:] if tools and _has_system(messages) else messages:
        text = _spell(message)
        if message.role == "tool" and after_result:
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n{text}")
        else:
            turns.append(Message("user" if message.role == "tool" else message.role, text))
        after_result = message.role == "tool"
    return turns


def _has_system(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0].role == "system"


def _with_signatures(messages: Sequence[Message], tools: Sequence[Tool]) -> Message:
    signatures = "\n".join(json.dumps(tool.signature, ensure_ascii=False) for tool in tools)
    section = _INTRODUCTION.format(signatures=signatures)
    return Message("system", f"{messages[0].content}\n\n{section}" if _has_system(messages) else section)


def _spell(message: Message) -> str:
    if message.role == "tool":
        return f"<tool_response>\n{message.content}\n</tool_response>"
    calls = [
        f'{CALL_START}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n{CALL_END}'
        for call in message.tool_calls
    ]
    return "\n".join([message.content, *calls] if message.content else calls)


def drop_oldest_rounds(
    messages: Sequence[Message], limit: int, encode: Callable[[Sequence[Message]], Sequence[int]]
) -> list[Message]:
    """Drop whole rounds, oldest first, until the conversation takes at most `limit` tokens. encode: spells turns.

    A round is a user turn and everything up to the next user turn. System turns and the last round always stay, so
    the result may still be too long: the caller decides what then. Raises what encode raises.
    """

    def kept_from(start: int) -> list[Message]:
        return [turn for i, turn in enumerate(messages) if i >= start or turn.role == "system"]

    starts = sorted({0, *(i for i, turn in enumerate(messages) if turn.role == "user")})
    first_fit = bisect_left(starts[:-1], True, key=lambda start: len(encode(kept_from(start))) <= limit)
    return kept_from(starts[first_fit])
