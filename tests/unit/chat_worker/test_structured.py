"""Checks the masks that keep an answer in its form: what may follow, when it may end, and what is refused."""

import json

import pytest

from meshkit.errors import MeshError, Reason
from modelkit.conversation import CallForm
from services.chat_worker.forms import grammar_of
from services.chat_worker.request import FormatKind, OutputFormat, ToolUse
from services.chat_worker.schema_repair import repaired
from services.chat_worker.structured import FormError, GrammarCompiler, join
from tests.unit.chat_worker.byte_grammars import COMPILER, END, OTHER_END, TOKENIZER, admits, allowed

SCHEMA = "response_format.json_schema.schema"
NO_TOOLS = ToolUse()


def source_of(kind: FormatKind, *texts: str) -> str:
    source = grammar_of(OutputFormat(kind, texts), NO_TOOLS, CallForm.TAGGED, COMPILER)
    assert source is not None
    return source


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
        (FormatKind.CHOICE, ["\x7f", "\U0001f600"], "\x7f", "x"),
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
        ({"type": "string", "pattern": "^[x[^y]{2}$"}, '"[^"', '"[z"'),
        ({"type": "string", "pattern": "^[^[y]$"}, '"x"', '"["'),
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


@pytest.mark.parametrize("pattern", ["[" * 100_000, "[" + r"\[" * 50_000, "[^" + "x" * 100_000 + "\\"])
def test_class_that_never_ends_stays_as_it_is_and_is_read_once(pattern: str) -> None:
    assert repaired({"pattern": pattern}) == {"pattern": pattern}  # read anew from each place it would take minutes


def test_schema_that_is_too_long_is_refused_before_it_is_read() -> None:
    assert "is 100001 characters long; the most is 100000" in refusal(FormatKind.JSON_SCHEMA, "{" * 100_001).message


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
        (FormatKind.JSON_SCHEMA, '{"$ref": "#"}', SCHEMA, "must contain itself"),
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
        (FormatKind.REGEX, "x{3}a{1000000}", "structured_outputs.regex", "cannot be kept to"),  # breaks in the answer
        (FormatKind.REGEX, r"[^\s\S]", "structured_outputs.regex", "no answer can be completed"),
        (FormatKind.GRAMMAR, "start: start", "structured_outputs.grammar", "must contain itself"),
        (FormatKind.GRAMMAR, 'start: "a" e\ne: e e', "structured_outputs.grammar", "must contain itself"),
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


def test_form_error_names_the_length_and_the_limit() -> None:
    with pytest.raises(FormError, match=r"is \d+ characters long; the most is 100000"):
        COMPILER.compile(join({"lark_grammar": "x" * 100_001}))


def test_a_mistake_in_a_long_pattern_is_told_without_all_of_the_pattern() -> None:
    with pytest.raises(FormError, match="unclosed") as refusal:
        COMPILER.compile(join({"json_schema": {"type": "string", "pattern": "[" * 5_000}}))

    assert len(str(refusal.value)) < 1_000
