"""Forms of answers and calls of functions: what the gateway passes on, what it gives back, what it refuses."""

import json
from typing import Any

import pytest

from tests.contract.gateway.conftest import Mesh
from tests.contract.gateway.refusals import CHAT, USER, chat, check
from tests.fakes.triton import last, piece
from zhinao.chat.v1.chat_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_TOOL_CALLS,
    ROLE_TOOL,
    GenerateRequest,
    GenerateResponse,
    OutputFormat,
    ToolCallDelta,
    ToolChoice,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "It.", "parameters": SCHEMA}}
TIME = {"type": "function", "function": {"name": "get_time"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
NAMED = {"type": "function", "function": {"name": "get_time"}}


def calls(*deltas: ToolCallDelta, text: str = "") -> GenerateResponse:
    return GenerateResponse(text=text, token_ids=[7], tool_calls=deltas)


TWO_CALLS = (
    piece("Let me look."),
    calls(ToolCallDelta(index=0, id="call_a", name="get_weather")),
    calls(ToolCallDelta(index=0, arguments='{"city": ')),
    calls(ToolCallDelta(index=0, arguments='"北京"}'), ToolCallDelta(index=1, id="call_b", name="get_time")),
    calls(ToolCallDelta(index=1, arguments="{}")),
    last(reason=FINISH_REASON_TOOL_CALLS),
)


async def format_sent(mesh: Mesh, **fields: Any) -> OutputFormat:
    answer = await mesh.http.post(CHAT, json=chat(**fields))
    assert answer.status_code == 200, answer.text
    return mesh.triton.request.format


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({}, None, None),
        ({"response_format": {"type": "text"}}, None, None),
        ({"response_format": {"type": "json_object"}}, "json_object", None),
        ({"structured_outputs": {"json_object": True}}, "json_object", None),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "grammar", 'start: "a"'),
        ({"structured_outputs": {"json": '{"type": "null"}'}}, "json_schema", '{"type": "null"}'),
    ],
)
async def test_form_is_passed_on(mesh: Mesh, fields: dict[str, Any], kind: str | None, value: str | None) -> None:
    sent = await format_sent(mesh, **fields)

    assert sent.WhichOneof("kind") == kind
    assert value is None or getattr(sent, str(kind)) == value


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
        {"structured_outputs": {"json": SCHEMA}},
    ],
)
async def test_schema_is_passed_on_as_json(mesh: Mesh, fields: dict[str, Any]) -> None:
    assert json.loads((await format_sent(mesh, **fields)).json_schema) == SCHEMA


async def test_choice_is_passed_on_from_text_completions_too(mesh: Mesh) -> None:
    completion = await mesh.openai.completions.create(
        model="zhinao-chat", prompt="hi", extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )

    assert completion.choices[0].text == "Hello!"
    assert list(mesh.triton.request.format.choice.texts) == ["yes", "no"]


async def test_an_answer_that_was_cut_short_in_its_thinking_is_history_as_it_came(mesh: Mesh) -> None:
    mesh.triton.script = [GenerateResponse(reasoning="Hm", token_ids=[7]), last(reason=FINISH_REASON_LENGTH)]
    cut = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=[USER])
    said = cut.choices[0].message.model_dump(exclude_unset=True)

    await mesh.openai.chat.completions.create(model="zhinao-chat", messages=[USER, said, USER])

    assert said["content"] is None
    sent = mesh.triton.received[-1].request
    assert isinstance(sent, GenerateRequest)
    assert [turn.content for turn in sent.chat.messages] == ["hi", "", "hi"]


async def test_functions_and_history_are_passed_on(mesh: Mesh) -> None:
    messages: list[Any] = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "assistant", "tool_calls": [CALL]},
    ]
    await mesh.openai.chat.completions.create(
        model="zhinao-chat", messages=messages, tools=[WEATHER, TIME], parallel_tool_calls=False
    )

    sent = mesh.triton.request.chat
    assert [(tool.name, tool.description) for tool in sent.tools] == [("get_weather", "It."), ("get_time", "")]
    assert json.loads(sent.tools[0].parameters_schema) == SCHEMA
    assert sent.tools[1].parameters_schema == ""
    assert (sent.HasField("parallel_tool_calls"), sent.parallel_tool_calls) == (True, False)
    made = sent.messages[1].tool_calls[0]
    assert (made.id, made.name, made.arguments) == ("call_1", "get_time", "{}")
    assert (sent.messages[2].role, sent.messages[2].tool_call_id) == (ROLE_TOOL, "call_1")


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [
        ("none", ToolChoice.MODE_NONE, ""),
        ("auto", ToolChoice.MODE_AUTO, ""),
        ("required", ToolChoice.MODE_REQUIRED, ""),
        (NAMED, ToolChoice.MODE_NAMED, "get_time"),
    ],
)
async def test_tool_choice_is_passed_on(mesh: Mesh, choice: Any, mode: int, name: str) -> None:
    await mesh.openai.chat.completions.create(
        model="zhinao-chat", messages=[USER], tools=[WEATHER, TIME], tool_choice=choice
    )

    sent = mesh.triton.request.chat.tool_choice
    assert (sent.mode, sent.name) == (mode, name)


async def test_calls_come_in_one_piece(mesh: Mesh) -> None:
    mesh.triton.script = TWO_CALLS

    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=[USER], tools=[WEATHER, TIME])

    (choice,) = completion.choices
    assert (choice.message.content, choice.finish_reason) == ("Let me look.", "tool_calls")
    assert choice.message.tool_calls is not None
    assert [call.model_dump() for call in choice.message.tool_calls] == [
        {"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
    ]


async def test_answer_of_calls_only_has_no_content(mesh: Mesh) -> None:
    mesh.triton.script = TWO_CALLS[1:]

    completion = await mesh.openai.chat.completions.create(model="zhinao-chat", messages=[USER], tools=[WEATHER])

    assert completion.choices[0].message.content is None


async def test_answer_without_calls_does_not_mention_them(mesh: Mesh) -> None:
    answer = await mesh.http.post(CHAT, json=chat(tools=[TIME]))

    assert answer.json()["choices"][0]["message"] == {"role": "assistant", "content": "Hello!", "refusal": None}


async def test_calls_are_streamed_name_first(mesh: Mesh) -> None:
    mesh.triton.script = TWO_CALLS

    stream = await mesh.openai.chat.completions.create(
        model="zhinao-chat", messages=[USER], tools=[WEATHER, TIME], stream=True
    )
    chunks = [chunk async for chunk in stream]

    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    assert [
        (delta.index, delta.id, delta.type, delta.function and (delta.function.name, delta.function.arguments))
        for delta in deltas
    ] == [
        (0, "call_a", "function", ("get_weather", "")),
        (0, None, None, (None, '{"city": ')),
        (0, None, None, (None, '"北京"}')),
        (1, "call_b", "function", ("get_time", "")),
        (1, None, None, (None, "{}")),
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "tool_calls"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me look."


async def test_calls_are_put_together_by_the_clients_own_stream_helper(mesh: Mesh) -> None:
    mesh.triton.script = TWO_CALLS

    async with mesh.openai.chat.completions.stream(
        model="zhinao-chat", messages=[USER], tools=[WEATHER, TIME]
    ) as stream:
        completion = await stream.get_final_completion()

    made = completion.choices[0].message.tool_calls
    assert made is not None
    assert [(call.function.name, call.function.arguments) for call in made] == [
        ("get_weather", '{"city": "北京"}'),
        ("get_time", "{}"),
    ]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
            "invalid_value",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice[0]", "invalid_type"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "unsupported_parameter"),
        ({"structured_outputs": {"json": {"a": "\ud800"}}}, "structured_outputs.json", "invalid_value"),
        ({"guided_json": {}}, "guided_json", "unsupported_parameter"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {"name": 1}}]}, "tools[0].function.name", "invalid_type"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
            "tools[0].function.parameters",
            "invalid_type",
        ),
        ({"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "invalid_value"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.type", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
            "messages[0].tool_calls",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].id",
            "missing_required_parameter",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    mesh: Mesh, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = await mesh.http.post(
        CHAT, content=json.dumps(chat(**fields)), headers={"content-type": "application/json"}
    )

    check(answer, 400, param, code)


@pytest.mark.parametrize("levels", [200, 900, 5000])
async def test_deeply_nested_schema_is_answered_or_refused(mesh: Mesh, levels: int) -> None:
    nested = '{"a": ' * levels + "{}" + "}" * levels
    body = json.dumps(chat()).replace("}]", f'}}], "structured_outputs": {{"json": {nested}}}', 1)

    answer = await mesh.http.post(CHAT, content=body, headers={"content-type": "application/json"})

    assert answer.status_code in (200, 400), answer.text
