"""Translates the pieces of an answer into the events of OpenAI's Responses API; the last one holds the whole answer."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from itertools import count
from typing import Final, Literal, Unpack

from services.gateway.openai.fields import Part
from services.gateway.openai.formats import JsonObject
from services.gateway.openai.response import (
    EventFields,
    OutputItem,
    OutputText,
    Place,
    ResponseBody,
    ResponseEvent,
    ResponseUsage,
    Status,
)
from services.gateway.openai.responses import FunctionChoice, ResponseRequest
from services.gateway.translate.head import Head
from services.gateway.translate.responses import response_words
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_LENGTH, GenerateResponse, ToolCallDelta
from zhinao.common.v1.common_pb2 import Usage

_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc"}  # of ids
_TEXT_NAMES: Final = {"message": "output_text", "reasoning": "reasoning_text"}


async def to_response_events(
    pieces: AsyncGenerator[GenerateResponse, None], body: ResponseRequest, head: Head
) -> AsyncGenerator[ResponseEvent, None]:
    """The events of a streamed answer; the first waits for a piece, so that a failure before it can be a status."""
    writer = _EventWriter(body, head)
    with response_words():
        async with aclosing(pieces):
            async for piece in pieces:
                for event in writer.write(piece):
                    yield event


async def to_response(
    pieces: AsyncGenerator[GenerateResponse, None], body: ResponseRequest, head: Head
) -> ResponseBody:
    """The whole answer."""
    response: ResponseBody | None = None
    async for event in to_response_events(pieces, body, head):
        response = event.get("response", response)
    assert response is not None, "an answer without a piece"
    return response


class _EventWriter:
    """Writes one answer; its items are its thinking, texts and calls in the order in which they come."""

    def __init__(self, body: ResponseRequest, head: Head) -> None:
        self._body = body
        self._head = head
        self._numbers = count()
        self._output: list[OutputItem] = []
        self._item: OutputItem | None = None  # the last one, while it is written
        self._num_calls = 0
        self._has_begun = False

    def write(self, piece: GenerateResponse) -> Generator[ResponseEvent]:
        if not self._has_begun:
            self._has_begun = True
            for kind in ("created", "in_progress"):
                yield self._event(f"response.{kind}", response=self._response("in_progress"))
        if piece.reasoning:
            yield from self._say("reasoning", piece.reasoning)
        if piece.text:
            yield from self._say("message", piece.text)
        for delta in piece.tool_calls:
            yield from self._call(delta)
        if piece.finish_reason:
            yield from self._end(
                "incomplete" if piece.finish_reason == FINISH_REASON_LENGTH else "completed", piece.usage
            )

    def _say(self, kind: Literal["message", "reasoning"], text: str) -> Generator[ResponseEvent]:
        item = self._item
        if item is None or item["type"] != kind:
            yield from self._close("completed")
            item = yield from self._open_text(kind)
        part = _part(item)
        part["text"] += text
        event = self._event(f"response.{_TEXT_NAMES[kind]}.delta", **self._place(item), content_index=0, delta=text)
        yield {**event, "logprobs": []} if kind == "message" else event

    def _call(self, delta: ToolCallDelta) -> Generator[ResponseEvent]:
        item = self._item
        if item is None or item["type"] != "function_call" or delta.index == self._num_calls:
            yield from self._close("completed")
            self._num_calls += 1
            item = self._new_item("function_call")
            item["call_id"], item["name"], item["arguments"] = delta.id, delta.name, ""
            yield self._event("response.output_item.added", output_index=len(self._output) - 1, item=item.copy())
        item["arguments"] = item.get("arguments", "") + delta.arguments
        yield self._event("response.function_call_arguments.delta", **self._place(item), delta=delta.arguments)

    def _end(self, status: Status, usage: Usage) -> Generator[ResponseEvent]:
        if not self._output:
            yield from self._open_text("message")
        yield from self._close(status)
        yield self._event(f"response.{status}", response=self._response(status, _to_usage(usage)))

    def _open_text(self, kind: Literal["message", "reasoning"]) -> Generator[ResponseEvent, None, OutputItem]:
        item = self._new_item(kind)
        part: OutputText = {"type": "reasoning_text", "text": ""}
        if kind == "message":
            item["role"] = "assistant"
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        else:
            item["summary"] = []
        item["content"] = []
        place = self._place(item)
        yield self._event("response.output_item.added", output_index=place["output_index"], item=item.copy())
        item["content"] = [part]
        yield self._event("response.content_part.added", **place, content_index=0, part=part.copy())
        return item

    def _close(self, status: Status) -> Generator[ResponseEvent]:
        """Tell the end of the item that is being written, if there is one."""
        item, self._item = self._item, None
        if item is None:
            return
        item["status"] = status
        place = self._place(item)
        if item["type"] == "function_call":
            arguments, name = item.get("arguments", ""), item.get("name", "")
            yield self._event("response.function_call_arguments.done", **place, arguments=arguments, name=name)
        else:
            part = _part(item)
            done = self._event(f"response.{part['type']}.done", **place, content_index=0, text=part["text"])
            yield {**done, "logprobs": []} if item["type"] == "message" else done
            yield self._event("response.content_part.done", **place, content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=place["output_index"], item=item)

    def _new_item(self, kind: Literal["message", "reasoning", "function_call"]) -> OutputItem:
        number = len(self._output)
        self._item = {"id": f"{_PREFIXES[kind]}_{self._head.id}_{number}", "type": kind, "status": "in_progress"}
        self._output.append(self._item)
        return self._item

    def _place(self, item: OutputItem) -> Place:
        return {"item_id": item["id"], "output_index": len(self._output) - 1}

    def _event(self, kind: str, **fields: Unpack[EventFields]) -> ResponseEvent:
        return {"type": kind, "sequence_number": next(self._numbers), **fields}

    def _response(self, status: Status, usage: ResponseUsage | None = None) -> ResponseBody:
        body, head = self._body, self._head
        form = body.text.format if body.text else None
        return {
            "id": head.id,
            "object": "response",
            "created_at": head.created_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": head.model,
            "output": self._output if usage else [],
            "usage": usage,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "tool_choice": _echo_choice(body.tool_choice),
            "tools": [_echo(tool) for tool in body.tools or ()],
            "text": {"format": {"type": "text"} if form is None else _echo(form)},
            "truncation": body.truncation or "disabled",
            "previous_response_id": None,
            "store": False,
            "metadata": {},
            "system_fingerprint": head.fingerprint,
        }


def _part(item: OutputItem) -> OutputText:
    """The only part of a message or of thinking."""
    (part,) = item.get("content", [])
    return part


def _echo(part: Part) -> JsonObject:
    """What the client sent."""
    return part.model_dump(by_alias=True, exclude_none=True)


def _echo_choice(choice: FunctionChoice | None) -> str | JsonObject:
    if choice is None:
        return "auto"
    return choice.type if choice.name is None else _echo(choice)


def _to_usage(usage: Usage) -> ResponseUsage:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
