"""Checks the forms of calls: which functions an answer may call, how often, and with which arguments."""

import pytest

from meshkit.errors import MeshError
from modelkit.conversation import CallForm, Tool
from services.chat_worker.forms import check_tools, grammar_of
from services.chat_worker.request import CallMode, FormatKind, OutputFormat, ToolUse
from tests.unit.chat_worker.byte_grammars import COMPILER, admits, walk

CITY = {"city": {"enum": ["Paris", "Rome"]}}
NOTHING = {"type": "object", "additionalProperties": False}
WEATHER = Tool("get_weather", "", {"type": "object", "properties": CITY, "required": ["city"]})
TIME = Tool("get_time", "", {"$ref": "#/$defs/nothing", "$defs": {"nothing": NOTHING}})


def calls(*tools: Tool, form: CallForm = CallForm.TAGGED, **use: object) -> str | None:
    return grammar_of(None, ToolUse(tools, **{"mode": CallMode.REQUIRED, **use}), form, COMPILER)  # pyright: ignore


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>', True),
        ('<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>', True),
        ('<tool_call>\n{"name": "get_time", "arguments": {"a": 1}}\n</tool_call>', False),
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>', False),
        ('<tool_call>\n{"name": "get_money", "arguments": {}}\n</tool_call>', False),
        ("Hello", False),
    ],
)
def test_required_call_has_arguments_that_fit(answer: str, fits: bool) -> None:
    assert admits(calls(WEATHER, TIME), answer) is fits


def test_calls_come_one_after_the_other_unless_only_one_is_wanted() -> None:
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'

    assert admits(calls(TIME), f"{call}\n{call}")
    assert not admits(calls(TIME, parallel=False), f"{call}\n{call}")
    assert not admits(calls(TIME, mode=CallMode.NAMED, name="get_time"), f"{call}\n{call}")
    assert not admits(calls(TIME), "\n".join([call] * 17))


def test_named_function_is_the_only_one_that_can_be_called() -> None:
    source = calls(WEATHER, TIME, mode=CallMode.NAMED, name="get_time")

    assert admits(source, '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>')
    assert walk(source, '<tool_call>\n{"name": "get_w') is None


def test_model_that_writes_bare_calls_is_held_to_that_form() -> None:
    assert admits(calls(TIME, form=CallForm.BARE), '{"name": "get_time", "parameters": {}}')


def test_answer_that_may_call_has_the_format_or_is_a_call() -> None:
    output = OutputFormat(FormatKind.CHOICE, ("yes", "no"))
    source = grammar_of(output, ToolUse((TIME,)), CallForm.TAGGED, COMPILER)

    assert admits(source, "yes")
    assert admits(source, '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>')
    assert not admits(source, "maybe")


@pytest.mark.parametrize("mode", [CallMode.AUTO, CallMode.NONE])
def test_answer_that_may_call_but_need_not_is_free_text(mode: CallMode) -> None:
    assert grammar_of(None, ToolUse((TIME,), mode), CallForm.TAGGED, COMPILER) is None


def test_schema_of_arguments_that_cannot_be_kept_to_is_refused_by_its_number() -> None:
    broken = Tool("broken", "", {"type": "object", "properties": {"a": {"not": {}}}})

    with pytest.raises(MeshError, match="not") as caught:
        calls(TIME, broken)

    assert caught.value.param == "tools[1].function.parameters"


@pytest.mark.parametrize(
    ("use", "param"),
    [
        (ToolUse((Tool("", "", {}),)), "tools[0].function.name"),
        (ToolUse((TIME, Tool("a b", "", {}))), "tools[1].function.name"),
        (ToolUse((Tool("a" * 65, "", {}),)), "tools[0].function.name"),
        (ToolUse((TIME, TIME)), "tools[1].function.name"),
        (ToolUse((TIME,) * 129), "tools"),
        (ToolUse((), CallMode.REQUIRED), "tool_choice"),
        (ToolUse((TIME,), CallMode.NAMED, "get_money"), "tool_choice"),
    ],
)
def test_tools_that_make_no_sense_are_refused(use: ToolUse, param: str) -> None:
    with pytest.raises(MeshError) as caught:
        check_tools(use)

    assert caught.value.param == param
