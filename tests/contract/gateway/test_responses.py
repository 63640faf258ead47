"""OpenAI's Responses API, judged by the official client: whole, streamed, parsed, with functions, and refused."""

import json
from importlib.metadata import version
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel

from meshkit.errors import MeshError, Reason
from meshkit.wire import encode_error
from services.gateway.openai.responses import ResponseRequest
from tests.contract.gateway.conftest import Mesh
from tests.fakes.triton import ErrorText, last, piece
from zhinao.chat.v1 import chat_pb2
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_TOOL_CALLS, GenerateResponse, ToolCallDelta

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = "/v1/responses"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = [
    GenerateResponse(reasoning="Hm, ", token_ids=[1]),
    GenerateResponse(reasoning="Rome.", token_ids=[1]),
    piece("I'll look."),
    GenerateResponse(tool_calls=[ToolCallDelta(index=0, id="call_1", name="get_weather")], token_ids=[1]),
    GenerateResponse(tool_calls=[ToolCallDelta(index=0, arguments='{"city": "Rome"}')], token_ids=[1]),
    GenerateResponse(
        tool_calls=[ToolCallDelta(index=1, id="call_2", name="get_weather", arguments="{}")], token_ids=[1]
    ),
    last(reason=FINISH_REASON_TOOL_CALLS),
]


class City(BaseModel):
    """What the model is made to answer."""

    name: str
    size: Literal["small", "large"]


async def test_a_text_is_answered_in_one_piece(mesh: Mesh) -> None:
    response = await mesh.openai.responses.create(
        model="zhinao-chat", input="你好", instructions="Be short.", max_output_tokens=9, temperature=0.5, top_p=0.9
    )

    assert (response.output_text, response.status, response.error) == ("Hello!", "completed", None)
    assert (response.model, response.object, response.model_extra) == (
        "zhinao-chat",
        "response",
        {
            "store": False,
            "system_fingerprint": f"zhinao-mesh-{version('zhinao-mesh')}-seed-{mesh.triton.request.sampling.seed}",
        },
    )
    assert response.id.startswith("resp_")
    (message,) = response.output
    assert message.type == "message"
    assert (message.role, message.status, message.id[:4]) == ("assistant", "completed", "msg_")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (5, 3, 8)
    assert (response.instructions, response.max_output_tokens, response.temperature) == ("Be short.", 9, 0.5)
    request = mesh.triton.request
    assert [(turn.role, turn.content) for turn in request.chat.messages] == [
        (chat_pb2.ROLE_SYSTEM, "Be short."),
        (chat_pb2.ROLE_USER, "你好"),
    ]
    assert (request.stop.max_tokens, request.sampling.temperature) == (9, 0.5)


async def test_an_answer_that_was_cut_short_is_incomplete(mesh: Mesh) -> None:
    mesh.triton.script = [piece("Hel"), last("lo", reason=FINISH_REASON_LENGTH)]

    response = await mesh.openai.responses.create(model="zhinao-chat", input="hi")

    assert (response.status, response.output_text, response.output[0].status) == ("incomplete", "Hello", "incomplete")  # pyright: ignore
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_an_answer_of_nothing_is_an_empty_message(mesh: Mesh) -> None:
    mesh.triton.script = [last()]

    response = await mesh.openai.responses.create(model="zhinao-chat", input="hi")

    assert [item.type for item in response.output] == ["message"]
    assert response.output_text == ""


async def test_events_come_in_the_order_that_the_official_client_knows(mesh: Mesh) -> None:
    stream = await mesh.openai.responses.create(model="zhinao-chat", input="hi", stream=True)
    events = [event async for event in stream]

    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert (events[0].response.status, events[0].response.output, events[0].response.usage) == ("in_progress", [], None)
    assert events[2].type == "response.output_item.added"
    assert (events[2].item.status, events[2].item.content) == ("in_progress", [])  # pyright: ignore
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello!"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "Hello!"


async def test_the_raw_stream_names_its_events_and_has_no_done(mesh: Mesh) -> None:
    answer = await mesh.http.post(PATH, json={"input": "hi", "stream": True})

    blocks = answer.text.removesuffix("\n\n").split("\n\n")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert all(block.startswith("event: response.") and '\ndata: {"type":"response.' in block for block in blocks)
    assert "[DONE]" not in answer.text


async def test_the_clients_own_stream_puts_the_same_answer_together(mesh: Mesh) -> None:
    mesh.triton.script = CALL

    async with mesh.openai.responses.stream(model="zhinao-chat", input="hi", tools=[WEATHER]) as stream:
        deltas = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
        streamed = await stream.get_final_response()
    whole = await mesh.openai.responses.create(model="zhinao-chat", input="hi", tools=[WEATHER])

    assert "".join(deltas) == '{"city": "Rome"}{}'
    assert [shape(item) for item in streamed.output] == [shape(item) for item in whole.output]
    reasoning, message, *calls = whole.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert [part.text for part in reasoning.content] == ["Hm, Rome."]
    assert message.type == "message"
    assert whole.output_text == "I'll look."
    assert [
        (call.call_id, call.name, call.arguments) for call in calls if isinstance(call, ResponseFunctionToolCall)
    ] == [
        ("call_1", "get_weather", '{"city": "Rome"}'),
        ("call_2", "get_weather", "{}"),
    ]
    assert len({item.id for item in whole.output}) == 4
    assert whole.tools[0].type == "function"


def shape(item: Any) -> dict[str, Any]:
    return item.model_dump(exclude={"id", "parsed_arguments"}, exclude_none=True)


async def test_an_answers_output_and_the_results_of_its_calls_are_the_next_input(mesh: Mesh) -> None:
    mesh.triton.script = CALL
    first: Response = await mesh.openai.responses.create(model="zhinao-chat", input="hi", tools=[WEATHER])
    mesh.triton.reset()

    raw = await mesh.openai.responses.with_raw_response.create(
        model="zhinao-chat",
        input=[
            {"role": "user", "content": "hi"},
            *[item.model_dump(exclude_unset=True) for item in first.output],  # pyright: ignore[reportArgumentType]
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
            {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "rain"}]},
        ],
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
    )

    prompt = mesh.triton.request.chat
    assert [(turn.role, turn.content, len(turn.tool_calls), turn.tool_call_id) for turn in prompt.messages] == [
        (chat_pb2.ROLE_USER, "hi", 0, ""),
        (chat_pb2.ROLE_ASSISTANT, "I'll look.", 2, ""),
        (chat_pb2.ROLE_TOOL, "sunny", 0, "call_1"),
        (chat_pb2.ROLE_TOOL, "rain", 0, "call_2"),
    ]
    assert prompt.messages[1].tool_calls[0].arguments == '{"city": "Rome"}'
    assert [tool.name for tool in prompt.tools] == ["get_weather"]
    assert (prompt.tool_choice.mode, prompt.tool_choice.name) == (chat_pb2.ToolChoice.MODE_NAMED, "get_weather")
    assert prompt.parallel_tool_calls is False
    assert raw.headers["x-ignored-params"] == "input[1]"  # the thinking


async def test_a_parsed_answer_is_made_to_keep_to_its_schema(mesh: Mesh) -> None:
    mesh.triton.script = [piece('{"name": "Rome", '), last('"size": "large"}')]

    response = await mesh.openai.responses.parse(model="zhinao-chat", input="hi", text_format=City)

    assert response.output_parsed == City(name="Rome", size="large")
    assert '"enum": ["small", "large"]' in mesh.triton.request.format.json_schema


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": []}, "input", "invalid_value"),
        ({"input": 7}, "input", "invalid_type"),
        ({"input": None}, "input", "invalid_type"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"content": "a"}]}, "input[0].role", "missing_required_parameter"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type", "unsupported_parameter"),
        (
            {"input": [{"type": "function_call", "call_id": "a", "name": "f"}]},
            "input[0].arguments",
            "missing_required_parameter",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "a"}]},
            "input[0].output",
            "missing_required_parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]},
            "input[0].content[0].type",
            "unsupported_parameter",
        ),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"include": ["message.output_text.logprobs"]}, "include", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type", "unsupported_parameter"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "missing_required_parameter"),
        ({"max_tokens": 4}, "max_tokens", "unsupported_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"strict": True, "metadata": {"a": "b"}}, "metadata", "unsupported_parameter"),
    ],
)
async def test_what_is_not_there_is_refused_by_name(mesh: Mesh, fields: dict[str, Any], param: str, code: str) -> None:
    answer = await mesh.http.post(PATH, json={"input": "hi", **fields})

    assert (answer.status_code, answer.json()["error"]["param"], answer.json()["error"]["code"]) == (400, param, code)
    assert mesh.triton.received == []


@pytest.mark.parametrize(
    ("param", "message", "named"),
    [
        ("max_tokens", "the prompt is 9 tokens and max_tokens is 90", "max_output_tokens"),
        ("messages", "messages is empty", "input"),
        ("tools[0].function.parameters", "tools[0].function.parameters cannot be kept to", "tools[0].parameters"),
        ("response_format.json_schema.schema", "response_format.json_schema.schema is no JSON", "text.format.schema"),
    ],
)
async def test_a_workers_refusal_names_the_field_as_it_is_called_here(
    mesh: Mesh, param: str, message: str, named: str
) -> None:
    mesh.triton.script = [ErrorText(encode_error(MeshError(Reason.INVALID_REQUEST, message, param=param)))]

    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await mesh.openai.responses.create(model="zhinao-chat", input="hi", stream=stream)

        assert refused.value.param == named
        assert named in refused.value.message


async def test_a_failure_after_the_first_event_raises_in_the_official_client(mesh: Mesh) -> None:
    lost = encode_error(MeshError(Reason.INTERNAL, "broken"))
    mesh.triton.script = [piece("Hel"), ErrorText(lost)]

    stream = await mesh.openai.responses.create(model="zhinao-chat", input="hi", stream=True)
    with pytest.raises(openai.APIError, match="failed inside the mesh"):
        async for _ in stream:
            pass
    raw = (await mesh.http.post(PATH, json={"input": "hi", "stream": True})).text.split("\n\n")[-2]
    assert raw.startswith("event: error\n")
    data = json.loads(raw.partition("data: ")[2])
    assert (data["type"], data["sequence_number"], data["code"]) == ("error", 5, None)


async def test_every_field_of_the_official_request_is_known_or_ignored_on_purpose() -> None:
    """A new field of the official client shows here."""
    from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

    ignored = {
        *("access_programs", "background_options", "image", "metadata", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "user"),
    }
    assert set(ResponseCreateParamsNonStreaming.__annotations__) - set(ResponseRequest.model_fields) == ignored


@pytest.mark.parametrize("stream", [False, True])
async def test_a_number_of_any_size_in_what_is_repeated_comes_back(mesh: Mesh, stream: bool) -> None:
    tool = {**WEATHER, "parameters": {"type": "object", "maxProperties": 10**30}}

    answer = await mesh.http.post(PATH, json={"input": "hi", "tools": [tool], "stream": stream})

    assert answer.status_code == 200
    assert str(10**30) in answer.text and "response.failed" not in answer.text and '"error",' not in answer.text
