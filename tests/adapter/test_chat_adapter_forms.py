"""Answers in a form and calls of functions, from the request's bytes to the responses', over a random model."""

import json
from typing import Any

import pytest

from meshkit.errors import Reason
from tests.adapter.chat_calls import USER, answer, chat, failure, greedy
from tests.adapter.conftest import MakeAdapter
from tests.fixtures.tiny_zhinao import write_tiny_zhinao
from zhinao.chat.v1 import chat_pb2

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
        "additionalProperties": False,
    }
)
YES_OR_NO = chat_pb2.OutputFormat(choice=chat_pb2.Choice(texts=["yes", "no"]))
TOOLS = [chat_pb2.Tool(name="f", parameters_schema=SCHEMA), chat_pb2.Tool(name="g", description="Does nothing.")]


def ask(**fields: Any) -> chat_pb2.GenerateRequest:
    return chat((USER, "hi"), **{**greedy(120), **fields})


def ask_with_tools(mode: chat_pb2.ToolChoice.Mode, **fields: Any) -> chat_pb2.GenerateRequest:
    request = ask()
    request.chat.tools.extend(TOOLS)
    request.chat.tool_choice.CopyFrom(chat_pb2.ToolChoice(mode=mode, **fields))
    return request


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint whose window has room for the description of functions."""
    return str(write_tiny_zhinao(tmp_path_factory.mktemp("roomy"), window=1024))


def text_of(pieces: list[chat_pb2.GenerateResponse], index: int = 0) -> str:
    return "".join(piece.text for piece in pieces if piece.index == index)


@pytest.mark.parametrize("tools", [[], TOOLS])
def test_thinking_is_told_apart_from_text_and_calls(make_adapter: MakeAdapter, roomy: str, tools: list[Any]) -> None:
    """Each of the two answers has it."""
    output = chat_pb2.OutputFormat(regex="<think>\n(hm|so)</think>\n\n(yes|no)")
    request = ask(format=output, n=2)
    request.chat.tools.extend(tools)
    request.chat.tool_choice.mode = chat_pb2.ToolChoice.MODE_NONE if tools else chat_pb2.ToolChoice.MODE_AUTO

    pieces = answer(make_adapter(model_path=roomy), request)

    for index in range(2):
        assert text_of(pieces, index) in ("yes", "no")
        assert "".join(piece.reasoning for piece in pieces if piece.index == index) in ("hm", "so")
    for end in (piece for piece in pieces if piece.finish_reason):
        assert 0 < end.usage.reasoning_tokens < end.usage.completion_tokens


def test_raw_text_has_no_thinking(make_adapter: MakeAdapter) -> None:
    output = chat_pb2.OutputFormat(regex="<think>hm</think>yes")

    pieces = answer(make_adapter(), chat_pb2.GenerateRequest(text="hi", format=output, **greedy(60)))

    assert text_of(pieces) == "<think>hm</think>yes"
    assert pieces[-1].usage.reasoning_tokens == 0


@pytest.mark.parametrize(
    ("output", "answers"),
    [
        (YES_OR_NO, {"yes", "no"}),
        (chat_pb2.OutputFormat(regex="[ab]{3}"), {x + y + z for x in "ab" for y in "ab" for z in "ab"}),
        (chat_pb2.OutputFormat(grammar='start: "x" "y"'), {"xy"}),
        (
            chat_pb2.OutputFormat(json_schema=SCHEMA),
            {f'{{"answer": "{word}", "sure": {sure}}}' for word in ("yes", "no") for sure in ("true", "false")},
        ),
    ],
)
def test_answer_has_the_form_and_stops_when_it_is_complete(
    make_adapter: MakeAdapter, output: chat_pb2.OutputFormat, answers: set[str]
) -> None:
    pieces = answer(make_adapter(), ask(format=output))

    assert text_of(pieces) in answers
    assert pieces[-1].finish_reason == chat_pb2.FINISH_REASON_STOP


def test_any_object_is_json_or_was_cut(make_adapter: MakeAdapter) -> None:
    pieces = answer(make_adapter(), ask(format=chat_pb2.OutputFormat(json_object=chat_pb2.JsonObject())))

    assert text_of(pieces).startswith("{")
    assert pieces[-1].finish_reason == chat_pb2.FINISH_REASON_LENGTH or json.loads(text_of(pieces)) is not None


def test_several_answers_each_have_the_form(make_adapter: MakeAdapter) -> None:
    sampling = chat_pb2.SamplingParams(temperature=2, seed=1)
    choice = chat_pb2.OutputFormat(choice=chat_pb2.Choice(texts=[f"{i:03}" for i in range(200)]))

    pieces = answer(make_adapter(), ask(format=choice, n=4, sampling=sampling))

    texts = [text_of(pieces, index) for index in range(4)]
    assert all(len(text) == 3 and text < "200" for text in texts)
    assert len(set(texts)) > 1


def test_form_that_cannot_be_kept_to_is_refused(make_adapter: MakeAdapter) -> None:
    error = failure(make_adapter(), ask(format=chat_pb2.OutputFormat(json_schema='{"not": {}}')))

    assert (error.reason, error.param) == (Reason.INVALID_REQUEST, "response_format.json_schema.schema")
    assert "not" in error.message


def test_required_call_comes_with_its_name_first_and_arguments_that_fit(make_adapter: MakeAdapter, roomy: str) -> None:
    request = ask_with_tools(chat_pb2.ToolChoice.MODE_NAMED, name="f")

    pieces = answer(make_adapter(model_path=roomy), request)

    deltas = [delta for piece in pieces for delta in piece.tool_calls]
    assert (deltas[0].name, deltas[0].index, deltas[0].id[:5]) == ("f", 0, "call_")
    assert not any(delta.name or delta.id for delta in deltas[1:])
    assert set(json.loads("".join(delta.arguments for delta in deltas))) == {"answer", "sure"}
    assert text_of(pieces) == ""
    assert pieces[-1].finish_reason == chat_pb2.FINISH_REASON_TOOL_CALLS


def test_call_is_not_read_where_there_are_no_functions(make_adapter: MakeAdapter, roomy: str) -> None:
    call = '{"name": "f", "arguments": {}}'
    choice = chat_pb2.OutputFormat(choice=chat_pb2.Choice(texts=[call]))
    request = ask_with_tools(chat_pb2.ToolChoice.MODE_NONE)
    request.format.CopyFrom(choice)

    pieces = answer(make_adapter(model_path=roomy), request)

    assert text_of(pieces) == call
    assert pieces[-1].finish_reason == chat_pb2.FINISH_REASON_STOP


def test_free_answer_is_text_even_with_functions(make_adapter: MakeAdapter, roomy: str) -> None:
    pieces = answer(make_adapter(model_path=roomy), ask_with_tools(chat_pb2.ToolChoice.MODE_AUTO))

    assert text_of(pieces) != ""
    assert not any(piece.tool_calls for piece in pieces)


def test_history_may_hold_calls_and_results(make_adapter: MakeAdapter, roomy: str) -> None:
    request = ask_with_tools(chat_pb2.ToolChoice.MODE_AUTO)
    call = chat_pb2.ToolCall(id="call_1", name="g", arguments="{}")
    request.chat.messages.extend(
        [
            chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, tool_calls=[call]),
            chat_pb2.Message(role=chat_pb2.ROLE_TOOL, content="done", tool_call_id="call_1"),
        ]
    )

    assert answer(make_adapter(model_path=roomy), request)[-1].usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [chat_pb2.Tool(name="a b")]}, "tools[0].function.name"),
        ({"tools": [chat_pb2.Tool(name="f", parameters_schema="[")]}, "tools[0].function.parameters"),
        ({"tools": [chat_pb2.Tool(name="f", parameters_schema="[]")]}, "tools[0].function.parameters"),
        ({"tools": [chat_pb2.Tool(name="f", parameters_schema='{"a": "\\ud83d"}')]}, "tools[0].function.parameters"),
        ({"tool_choice": chat_pb2.ToolChoice(mode=chat_pb2.ToolChoice.MODE_REQUIRED)}, "tool_choice"),
        ({"tool_choice": chat_pb2.ToolChoice(mode=77)}, "tool_choice"),
    ],
)
def test_functions_that_make_no_sense_are_refused(make_adapter: MakeAdapter, change: Any, param: str) -> None:
    messages = [chat_pb2.Message(role=USER, content="hi")]

    error = failure(make_adapter(), chat_pb2.GenerateRequest(chat=chat_pb2.ChatPrompt(messages=messages, **change)))

    assert (error.reason, error.param) == (Reason.INVALID_REQUEST, param)
