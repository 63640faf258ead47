"""Answers in a form and calls of functions: the official openai client against the real mesh."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from modelkit.tokenizer import load_tokenizer
from tests.e2e.conftest import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome", "北京"]}}, "required": ["city"]}
CITY_ONLY = {**CITY, "additionalProperties": False}
WEATHER = {"name": "get_weather", "description": "Current weather of a city.", "parameters": CITY_ONLY}
TOOLS: list[Any] = [
    {"type": "function", "function": WEATHER},
    {"type": "function", "function": {"name": "get_time", "parameters": CITY_ONLY}},
]
QUESTION: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]


@pytest.fixture
def client(mesh: Mesh) -> Iterator[openai.OpenAI]:
    with mesh.client() as client:
        yield client


class Verdict(BaseModel):
    """What the client asks the model to fill in."""

    mood: Literal["good", "bad"]
    stars: int = Field(ge=1, le=5)
    reasons: list[Literal["price", "taste", "service"]] = Field(max_length=2)


def test_client_gets_its_own_class_back(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(
        model="zhinao-chat",
        messages=[{"role": "user", "content": "Judge this: the soup was cold."}],
        response_format=Verdict,
        temperature=0,
    )

    assert isinstance(completion.choices[0].message.parsed, Verdict)
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", ["zhinao-chat", "tiny-zhinao", "tiny/llama"])
def test_every_model_keeps_to_a_pattern_in_every_answer(client: openai.OpenAI, model: str) -> None:
    completion = client.completions.create(
        model=model,
        prompt="When?",
        n=3,
        seed=1,
        extra_body={"structured_outputs": {"regex": r"[0-9]{4}-[0-9]{2}-[0-9]{2}"}},
    )

    assert [bool(re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", choice.text)) for choice in completion.choices] == [
        True
    ] * 3


def test_streamed_and_whole_answers_in_a_form_are_alike(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "zhinao-chat",
        "messages": QUESTION,
        "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_ONLY}},
    }

    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert json.loads(str(whole.choices[0].message.content))["city"] in CITY["properties"]["city"]["enum"]  # type: ignore[index]


def test_schema_that_cannot_be_kept_to_is_refused_with_its_reason(client: openai.OpenAI) -> None:
    schema = {"name": "x", "schema": {"type": "array", "uniqueItems": True}}

    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        client.chat.completions.create(
            model="zhinao-chat",
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": schema},  # pyright: ignore[reportArgumentType]
        )

    assert caught.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_call_fits_its_schema_streamed_and_whole(client: openai.OpenAI, choice: Any) -> None:
    asked: dict[str, Any] = {
        "model": "zhinao-chat",
        "messages": QUESTION,
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 0,
    }

    whole = client.chat.completions.create(**asked).choices[0]
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]

    assert whole.message.tool_calls is not None and streamed.message.tool_calls is not None
    ((call,), (same,)) = whole.message.tool_calls, streamed.message.tool_calls
    assert (whole.finish_reason, streamed.finish_reason) == ("tool_calls", "tool_calls")
    assert whole.message.content is None
    assert call.type == same.type == "function"
    assert (call.function.name, call.function.arguments) == (same.function.name, same.function.arguments)
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome", "北京")
    assert choice == "required" or call.function.name == "get_weather"


def test_result_of_a_call_goes_back_and_is_answered(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model="zhinao-chat", messages=QUESTION, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    ).choices[0]
    assert first.message.tool_calls
    result = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": '{"sky": "clear"}'}

    second = client.chat.completions.create(
        model="zhinao-chat",
        messages=[*QUESTION, first.message.model_dump(exclude_none=True), result],
        tools=TOOLS,
        tool_choice="none",
        max_tokens=16,
    ).choices[0]

    assert second.message.content
    assert second.message.tool_calls is None


@pytest.mark.parametrize("cities", [["Rome"], ["Rome", "北京"]])
def test_calls_in_a_free_answer_are_told_apart_from_its_text_streamed_and_whole(
    client: openai.OpenAI, mesh: Mesh, cities: list[str]
) -> None:
    """The form leaves only this answer once the bias has chosen its first token; the calls in it are nobody's order."""
    says = "Let me look."
    calls = [
        f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' for city in cities
    ]
    first = load_tokenizer(mesh.checkpoints["zhinao-chat"]).encode(says)[0]
    asked: dict[str, Any] = {
        "model": "zhinao-chat",
        "messages": QUESTION,
        "tools": TOOLS,
        "tool_choice": "auto",
        "temperature": 0,
        "logit_bias": {str(first): 100},
        "extra_body": {"structured_outputs": {"choice": ["\n".join([says, *calls])]}},
    }

    whole = client.chat.completions.create(**asked).choices[0]
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]

    for choice in (whole, streamed):
        assert choice.finish_reason == "tool_calls"
        assert str(choice.message.content).strip() == says
        found = [call for call in choice.message.tool_calls or () if call.type == "function"]
        assert [call.function.name for call in found] == ["get_weather"] * len(cities)
        assert [json.loads(call.function.arguments) for call in found] == [{"city": city} for city in cities]
