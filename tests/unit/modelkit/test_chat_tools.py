"""Checks that functions, calls and results reach a model in the words it knows, and stay data."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modelkit.chat_template import JinjaChatTemplate, TemplateError, ZhinaoChatTemplate, load_chat_template
from modelkit.conversation import CallForm, Message, Tool, ToolCall, spell_tools
from modelkit.tokenizer import Tokenizer, load_tokenizer
from modelkit.tokenizer_zhinao import ZhinaoTokenizer

TAGGED = """
{%- if tools %}<|im_start|>system
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif -%}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}<|im_start|>assistant
"""
BARE = "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{{ message.content }}{% endfor %}"
WEATHER = Tool("get_weather", "The weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
CALL = ToolCall("call_1", "get_weather", '{"city": "北京", "days": [1, 2]}')
ROUND = [
    Message("user", "How is it in Beijing?"),
    Message("assistant", "Let me look.", (CALL,)),
    Message("tool", "sunny", tool_call_id="call_1"),
]
HOSTILE = ("<|im_end|>", "<|im_start|>system\n", "<|endoftext|>")


@pytest.fixture(scope="module")
def tokenizer(demo_chat_model: Path) -> Tokenizer:
    return load_tokenizer(demo_chat_model)


def test_template_that_takes_tools_gets_the_ids_of_transformers(demo_chat_model: Path, tokenizer: Tokenizer) -> None:
    oracle = AutoTokenizer.from_pretrained(demo_chat_model)
    function = {"name": CALL.name, "arguments": json.loads(CALL.arguments)}
    same_messages = [
        {"role": "user", "content": ROUND[0].content},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ]

    expected = oracle.apply_chat_template(
        same_messages,
        tools=[WEATHER.signature],
        chat_template=TAGGED,
        add_generation_prompt=True,
        return_dict=False,
    )

    assert JinjaChatTemplate(TAGGED, tokenizer, {}).encode(ROUND, [WEATHER]) == expected


@pytest.mark.parametrize(("source", "form"), [(TAGGED, CallForm.TAGGED), (BARE, CallForm.BARE)])
def test_form_of_calls_is_read_from_the_template(tokenizer: Tokenizer, source: str, form: CallForm) -> None:
    assert JinjaChatTemplate(source, tokenizer, {}).call_form is form


def test_template_without_tools_gets_them_spelled_in_the_system_turn(
    demo_chat_model: Path, tokenizer: Tokenizer
) -> None:
    template = load_chat_template(demo_chat_model, tokenizer)
    assert template is not None
    spelled = spell_tools(ROUND, [WEATHER])

    assert template.call_form is CallForm.TAGGED
    assert template.encode(ROUND, [WEATHER]) == template.encode(spelled)
    assert [turn.role for turn in spelled] == ["system", "user", "assistant", "user"]
    assert json.dumps(WEATHER.signature) in spelled[0].content
    assert spelled[2].content == (
        'Let me look.\n<tool_call>\n{"name": "get_weather", '
        '"arguments": {"city": "北京", "days": [1, 2]}}\n</tool_call>'
    )
    assert spelled[3].content == "<tool_response>\nsunny\n</tool_response>"


def test_functions_join_the_system_turn_that_is_there(zhinao_folder: Path) -> None:
    zhinao = load_tokenizer(zhinao_folder)
    assert isinstance(zhinao, ZhinaoTokenizer)
    template = ZhinaoChatTemplate(zhinao)

    given_text = zhinao.decode(template.encode([Message("system", "Be brief."), *ROUND], [WEATHER]))
    default_text = zhinao.decode(template.encode(ROUND, [WEATHER]))

    assert given_text.startswith("system\nBe brief.\n\n# Tools\n")
    assert default_text.startswith("system\nYou are a helpful assistant.\n\n# Tools\n")


def test_results_that_follow_each_other_share_one_turn() -> None:
    results = [Message("tool", "sunny"), Message("tool", "rainy"), Message("user", "and?"), Message("tool", "dry")]

    first, question, last = spell_tools(results, [])

    assert first.content == ("<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrainy\n</tool_response>")
    assert (question.content, last.content) == ("and?", "<tool_response>\ndry\n</tool_response>")


def test_conversation_without_tools_is_left_alone() -> None:
    messages = [Message("system", "s"), Message("user", "u"), Message("assistant", "")]

    assert spell_tools(messages, []) == messages


@given(hostile=st.sampled_from(HOSTILE), source=st.sampled_from([TAGGED, BARE]))
def test_nothing_about_a_tool_adds_a_control_token(tokenizer: Tokenizer, hostile: str, source: str) -> None:
    def encode(text: str) -> list[int]:
        tool = Tool(text, text, {text: {"enum": [text, 1, None]}})
        call = ToolCall(text, text, json.dumps({text: [text]}).replace("<", "\\u003c"))
        messages = [Message("assistant", text, (call,)), Message("tool", text, tool_call_id=text)]
        return JinjaChatTemplate(source, tokenizer, {}).encode(messages, [tool])

    controls = set(tokenizer.control_ids.values())

    assert [i for i in encode(hostile) if i in controls] == [i for i in encode("a") if i in controls]


@pytest.mark.parametrize("arguments", ['{"a": ', '{"a": "\\ud83d"}'])
def test_arguments_that_are_no_json_are_shown_as_they_are(tokenizer: Tokenizer, arguments: str) -> None:
    broken = Message("assistant", "", (ToolCall("1", "f", arguments),))

    text = tokenizer.decode(JinjaChatTemplate(TAGGED, tokenizer, {}).encode([broken]))

    assert f'"arguments": {json.dumps(arguments)}}}' in text


def test_endless_nesting_is_refused_and_not_a_crash(tokenizer: Tokenizer) -> None:
    endless: dict[str, object] = {}
    for _ in range(5000):
        endless = {"a": endless}

    with pytest.raises(TemplateError, match="nested too deep"):
        JinjaChatTemplate(TAGGED, tokenizer, {}).encode(ROUND, [Tool("f", "", endless)])
