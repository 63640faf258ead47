"""Checks the masks that keep an answer in its form: what may follow, when it may end, and what is refused."""

import json

import pytest

from meshkit.errors import MeshError, Reason
from modelkit.conversation import CallForm, Tool
from services.chat_worker.forms import check_tools, grammar_of
from services.chat_worker.request import CallMode, FormatKind, OutputFormat, ToolUse
from services.chat_worker.structured import FormError, GrammarCompiler, TokenGrammar, join
from tests.fakes.engine import ByteTokenizer

TOKENIZER = ByteTokenizer("<eod>", "<|im_start|>", "<|im_end|>")
END, OTHER_END = TOKENIZER.control_ids["<|im_end|>"], TOKENIZER.control_ids["<eod>"]
COMPILER = GrammarCompiler(TOKENIZER, {END, OTHER_END})
CITY = {"city": {"enum": ["Paris", "Rome"]}}
NOTHING = {"type": "object", "additionalProperties": False}
WEATHER = Tool("get_weather", "", {"type": "object", "properties": CITY, "required": ["city"]})
TIME = Tool("get_time", "", {"$ref": "#/$defs/nothing", "$defs": {"nothing": NOTHING}})
SCHEMA = "response_format.json_schema.schema"
NO_TOOLS = ToolUse()


def allowed(grammar: TokenGrammar) -> set[int]:
    mask = grammar.mask()
    return {token_id for token_id in range(TOKENIZER.vocab_size) if mask[token_id // 32] >> token_id % 32 & 1}


def walk(source: str | None, text: str) -> TokenGrammar | None:
    """The grammar after the text, None if it refuses some of it."""
    assert source is not None
    grammar = COMPILER.start(source)
    for token_id in TOKENIZER.encode(text):
        grammar.prepare()
        if token_id not in allowed(grammar):
            return None
        grammar.accept(token_id)
    return grammar


def admits(source: str | None, text: str) -> bool:
    """Whether the text is one of the answers in this form."""
    grammar = walk(source, text)
    return grammar is not None and END in allowed(grammar)


def source_of(kind: FormatKind, *texts: str) -> str:
    source = grammar_of(OutputFormat(kind, texts), NO_TOOLS, CallForm.TAGGED, COMPILER)
    assert source is not None
    return source


def calls(*tools: Tool, form: CallForm = CallForm.TAGGED, **use: object) -> str | None:
    return grammar_of(None, ToolUse(tools, **{"mode": CallMode.REQUIRED, **use}), form, COMPILER)  # pyright: ignore


def refusal(kind: FormatKind, *texts: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        source_of(kind, *texts)
    return caught.value


def test_end_tokens_are_allowed_exactly_when_the_form_may_end() -> None:
    grammar = COMPILER.start(source_of(FormatKind.REGEX, "ab?"))
    may_end: list[bool] = []
    for token_id in TOKENIZER.encode("ab"):
        may_end.append(END in allowed(grammar))
        grammar.accept(token_id)
        assert (END in allowed(grammar)) is (OTHER_END in allowed(grammar))

    assert [*may_end, END in allowed(grammar)] == [False, True, True]


def test_form_is_finished_once_nothing_may_follow() -> None:
    grammar = COMPILER.start(source_of(FormatKind.REGEX, "ab?"))

    finished: list[bool] = []
    for token_id in TOKENIZER.encode("ab"):
        grammar.prepare()
        grammar.accept(token_id)
        finished.append(grammar.is_finished)

    assert finished == [False, True]


def test_answer_whose_end_token_is_chosen_is_finished() -> None:
    grammar = COMPILER.start(source_of(FormatKind.REGEX, "a+"))
    for token_id in (*TOKENIZER.encode("a"), END):
        grammar.accept(token_id)

    assert grammar.is_finished


def test_no_other_control_token_is_ever_allowed() -> None:
    grammar = COMPILER.start(source_of(FormatKind.REGEX, "(.|\n)*"))

    assert TOKENIZER.control_ids["<|im_start|>"] not in allowed(grammar)


def test_answers_of_one_form_do_not_disturb_each_other() -> None:
    source = source_of(FormatKind.CHOICE, "one", "two")
    first, second = COMPILER.start(source), COMPILER.start(source)
    first.accept(ord("o"))

    assert allowed(first) == {ord("n")}
    assert allowed(second) == {ord("o"), ord("t")}


def test_answer_without_an_end_token_in_the_model_still_ends() -> None:
    compiler = GrammarCompiler(TOKENIZER, ())
    grammar = compiler.start(join({"lark_grammar": 'start: "a"+'}))
    grammar.accept(ord("a"))
    (end,) = set(TOKENIZER.control_ids.values()) & allowed(grammar)
    grammar.accept(end)

    assert grammar.is_finished


@pytest.mark.parametrize("text", ["", "Hm, {1}\n\n</thin> or", "你好\n"])
def test_a_form_begins_behind_thinking_that_the_prompt_has_opened(text: str) -> None:
    output = OutputFormat(FormatKind.CHOICE, ("yes", "no"))
    source = grammar_of(output, NO_TOOLS, CallForm.TAGGED, COMPILER, behind_thought=True)

    for blanks in ("", "\n", "\n\n"):
        assert admits(source, f"{text}</think>{blanks}yes")
    for unfinished in (text, "yes", f"{text}</think>", f"{text}</think>maybe", f"{text}</think>yes</think>no"):
        assert not admits(source, unfinished)


@pytest.mark.parametrize(
    ("kind", "texts", "good", "bad"),
    [
        (FormatKind.JSON_OBJECT, [], '{"a": [1, {"b": null}], "c": "\\n\\"ü"}', "[]"),
        (FormatKind.JSON_SCHEMA, ['{"type": "array", "maxItems": 2}'], '[1, "b"]', "[1, 2, 3]"),
        (FormatKind.REGEX, ["[a-c]{2}/\\n"], "ab/\n", "ab/"),
        (FormatKind.CHOICE, ['say "no"', "back\\slash", "tab\t\b\x01", "ja", "日本"], "tab\t\b\x01", "tab"),
        (FormatKind.CHOICE, [""], "", "x"),
        (FormatKind.GRAMMAR, ['start: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]+/'], "1+23+4", "1+"),
    ],
)
def test_form_admits_what_it_says(kind: FormatKind, texts: list[str], good: str, bad: str) -> None:
    source = source_of(kind, *texts)

    assert admits(source, good)
    assert not admits(source, bad)


NO_QUOTE = {"type": "string", "pattern": '^[^"]*$'}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (NO_QUOTE, r'"a\\\nb"', r'"a\"b"'),
        ({"type": "string", "pattern": r'^"[^"]$'}, r'"\"a"', r'"\"\""'),
        ({"type": "string", "pattern": r"^\\[^\\]$"}, r'"\\a"', r'"\\\\"'),
        ({"type": "string", "pattern": r"^\[\^$"}, '"[^"', r'"\""'),
        ({"type": "string", "pattern": r"^[\x00-!#-~]$"}, r'"\n"', r'"\""'),
        (
            {"type": "object", "patternProperties": {'^[^"]$': True}, "additionalProperties": False},
            '{"a": 1}',
            r'{"\"": 1}',
        ),
        ({"type": "object", "properties": {"pattern": NO_QUOTE}}, '{"pattern": "a"}', r'{"pattern": "\""}'),
        ({"anyOf": [{"items": NO_QUOTE, "type": "array"}]}, '["a"]', r'["\""]'),
        ({"const": {"pattern": "[^a]"}}, '{"pattern": "[^a]"}', '{"pattern": "b"}'),
    ],
)
def test_class_of_characters_in_a_pattern_means_what_it_says(schema: dict[str, object], good: str, bad: str) -> None:
    source = source_of(FormatKind.JSON_SCHEMA, json.dumps(schema))

    assert admits(source, good)
    assert not admits(source, bad)


def test_json_has_one_layout_so_that_blanks_cannot_go_on_for_ever() -> None:
    source = source_of(FormatKind.JSON_SCHEMA, '{"type": "array", "x-guidance": {"whitespace_flexible": true}}')

    assert admits(source, "[1, 2]")
    assert not any(admits(source, text) for text in ("[1,2]", "[ 1, 2]", "[1,\n2]", "[1, 2] "))


@pytest.mark.parametrize(
    ("kind", "text", "param", "reason"),
    [
        (FormatKind.JSON_SCHEMA, "{", SCHEMA, "is no JSON"),
        (FormatKind.JSON_SCHEMA, "[]", SCHEMA, "it must be a JSON object"),
        (FormatKind.JSON_SCHEMA, '{"type": "words"}', SCHEMA, "Invalid type: words"),
        (FormatKind.JSON_SCHEMA, '{"uniqueItems": true}', SCHEMA, "uniqueItems"),
        (FormatKind.JSON_SCHEMA, '{"$ref": "#"}', SCHEMA, "cannot be kept to"),
        (FormatKind.JSON_SCHEMA, '{"$ref": "http://x/y"}', SCHEMA, "http://x/y"),
        (
            FormatKind.JSON_SCHEMA,
            '{"a": ' * 5000 + "1" + "}" * 5000,
            SCHEMA,
            "is no JSON",
        ),
        (
            FormatKind.JSON_SCHEMA,
            '{"not": ' * 300 + "{}" + "}" * 300,
            SCHEMA,
            "recursion",
        ),
        (FormatKind.JSON_SCHEMA, '{"enum": ["' + "a" * 100_000 + '"]}', SCHEMA, "100000"),
        (FormatKind.REGEX, "(a", "structured_outputs.regex", "unclosed group"),
        (FormatKind.GRAMMAR, "start: x", "structured_outputs.grammar", "unknown name"),
        (FormatKind.GRAMMAR, "", "structured_outputs.grammar", "cannot be kept to"),
    ],
)
def test_form_that_cannot_be_kept_to_is_refused_with_its_field(
    kind: FormatKind, text: str, param: str, reason: str
) -> None:
    error = refusal(kind, text)

    assert (error.reason, error.param) == (Reason.INVALID_REQUEST, param)
    assert reason in error.message


def test_choice_of_nothing_is_refused() -> None:
    assert refusal(FormatKind.CHOICE).param == "structured_outputs.choice"


def test_form_that_broke_allows_nothing_more_and_does_not_count_as_complete() -> None:
    grammar = COMPILER.start(source_of(FormatKind.REGEX, "ab?"))
    grammar.accept(ord("x"))

    assert allowed(grammar) == set()
    assert not grammar.is_finished


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


def test_form_error_names_the_length_and_the_limit() -> None:
    with pytest.raises(FormError, match=r"is \d+ characters long; the most is 100000"):
        COMPILER.compile(join({"lark_grammar": "x" * 100_001}))
