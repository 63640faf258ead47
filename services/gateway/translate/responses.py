"""Translates requests of OpenAI's Responses API into ours by way of a chat request's parts, and failures back."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from meshkit.errors import MeshError, Reason
from services.gateway.openai.formats import JsonSchema, ResponseFormat
from services.gateway.openai.messages import Message, TextPart
from services.gateway.openai.responses import FunctionTool, InputItem, ResponseRequest, TextFormat
from services.gateway.openai.tools import (
    CalledFunction,
    FunctionDefinition,
    FunctionName,
    MadeCall,
    ToolChoice,
    ToolDefinition,
)
from services.gateway.translate.chat import to_template_values, with_conversation
from services.gateway.translate.generation import to_generate_request
from services.gateway.translate.head import Head
from zhinao.chat.v1.chat_pb2 import GenerateRequest

# What chat completions and workers call a field, and what it is called here; in a path, and where a sentence names it.
_NAMES: Final = (
    (re.compile(r"\bmessages(?=\[| is |$)"), "input"),
    (re.compile(r"\bmax_tokens\b"), "max_output_tokens"),
    (re.compile(r"\b(tools\[\d+\])\.function\."), r"\1."),
    (re.compile(r"\btool_choice\.function\b"), "tool_choice.name"),
    (re.compile(r"\bresponse_format\.json_schema\.schema\b"), "text.format.schema"),
    (re.compile(r"\bresponse_format\b"), "text.format"),
)


def to_response_request(body: ResponseRequest, head: Head) -> GenerateRequest:
    """OpenAI's request as ours; MeshError where two fields contradict each other."""
    fields = body.model_copy(
        update={
            "max_tokens": body.max_output_tokens,
            "truncate_prompt": body.truncation == "auto",
            "response_format": _to_format(body.text.format if body.text else None) or body.response_format,
        }
    )
    with response_words():
        request = with_conversation(
            to_generate_request(fields, head, top_logprobs=None),
            _to_messages(body),
            [_to_tool(tool) for tool in body.tools or ()],
            _to_choice(body),
            parallel=body.parallel_tool_calls,
        )
        request.chat.template_values = to_template_values(body.chat_template_kwargs)
        return request


@contextmanager
def response_words() -> Generator[None]:
    """Around what chat completions share: a failure names its fields as they are called here."""
    try:
        yield
    except MeshError as error:
        error.message = _renamed(error.message)
        error.param = _renamed(error.param or "") or None
        raise


def _renamed(text: str) -> str:
    for pattern, name in _NAMES:
        text = pattern.sub(name, text)
    return text


def _to_messages(body: ResponseRequest) -> list[Message]:
    """The conversation; calls belong to the assistant's turn before them."""
    messages: list[Message] = [_turn("system", body.instructions)] if body.instructions else []
    for item in body.input:
        match item.type:
            case "message":
                messages.append(_turn(item.role or "", item.text))
            case "function_call":
                if not messages or messages[-1].role != "assistant":
                    messages.append(_turn("assistant", ""))
                messages[-1].tool_calls = [*(messages[-1].tool_calls or ()), _to_call(item)]
            case "function_call_output":
                messages.append(_turn("tool", item.text, call_id=item.call_id))
            case _:
                pass  # thinking
    return messages


def _turn(role: str, text: str, call_id: str | None = None) -> Message:
    return Message(role=role, content=[TextPart(type="text", text=text)], tool_call_id=call_id)


def _to_call(item: InputItem) -> MadeCall:
    return MadeCall(
        id=item.call_id or "", function=CalledFunction(name=item.name or "", arguments=item.arguments or "")
    )


def _to_tool(tool: FunctionTool) -> ToolDefinition:
    function = FunctionDefinition(name=tool.name, description=tool.description, parameters=tool.parameters)
    return ToolDefinition(type=tool.type, function=function)


def _to_choice(body: ResponseRequest) -> ToolChoice | None:
    choice = body.tool_choice
    if choice is None:
        return None
    return ToolChoice(type=choice.type, function=None if choice.name is None else FunctionName(name=choice.name))


def _to_format(form: TextFormat | None) -> ResponseFormat | None:
    if form is None:
        return None
    if form.json_schema is None and form.type == "json_schema":
        param = "text.format.schema"
        message = f"{param} is required, as the type is json_schema"
        raise MeshError(Reason.INVALID_REQUEST, message, param=param, code="missing_required_parameter")
    if form.json_schema is None:
        return ResponseFormat(type=form.type)
    return ResponseFormat(type=form.type, json_schema=JsonSchema(schema=form.json_schema))
