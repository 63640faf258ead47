"""Checks that calls are found in an answer however it is cut, and that what is no call stays text."""

import json
from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chat_worker.tool_calls import CallReader, Found

NAMES = ("get_weather", "get_time")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>'
BARE = '{"name": "get_weather", "arguments": {"city": "北京"}}'
WEATHER = ("get_weather", '{"city": "北京"}')
TIME = ("get_time", '{"zones": [{"a": "}\\"{"}]}')


def make_reader() -> CallReader:
    ids = count()
    return CallReader(NAMES, lambda: f"id{next(ids)}")


def joined(parts: Sequence[Found]) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls as a client puts them together; asserts that the parts are well-formed."""
    calls: list[list[str]] = []
    for part in parts:  # clients read one delta of a call in a chunk
        assert len({delta.index for delta in part.calls}) == len(part.calls)
    for delta in (delta for part in parts for delta in part.calls):
        if delta.name:
            assert delta.index == len(calls)
            assert delta.id == f"id{delta.index}"
            calls.append([delta.name, delta.arguments])
        else:
            assert delta.index == len(calls) - 1
            assert not delta.id
            calls[-1][1] += delta.arguments
    return "".join(part.text for part in parts), [(name, arguments) for name, arguments in calls]


def read(*pieces: str) -> tuple[str, list[tuple[str, str]]]:
    reader = make_reader()
    parts = [*(reader.push(piece) for piece in pieces), reader.finish()]
    assert parts[-1].num_calls == len(joined(parts)[1])
    return joined(parts)


ANSWERS = [
    ("", "", []),
    ("Hello {you}\n", "Hello {you}\n", []),
    (CALL, "", [WEATHER]),
    (f"Let me look. \n{CALL}\n", "Let me look.", [WEATHER]),
    (f"{CALL}\n{CALL}", "", [WEATHER, WEATHER]),
    (f"{CALL} and {CALL} done", " and done", [WEATHER, WEATHER]),
    (CALL.removesuffix("\n</tool_call>"), "", [WEATHER]),
    (CALL.removesuffix("}\n</tool_call>"), "", [WEATHER]),
    (CALL.replace("\n", "").replace(": ", ":"), "", [("get_weather", '{"city":"北京"}')]),
    ('<tool_call>{"name": "get_time", "arguments": {"zones": [{"a": "}\\"{"}]}}</tool_call>', "", [TIME]),
    ('<tool_call>{"arguments": {"city": "北京"}, "name": "get_weather"}</tool_call> ok', " ok", [WEATHER]),
    ('<tool_call>{"arguments": {"city": "北京"}, "name": "get_weather"}', "", [WEATHER]),
    ('<tool_call>{"name": "get_weather", "arguments": {"city": "北', "", [("get_weather", '{"city": "北')]),
    ('{"name": "get_weather", "arguments": {"city": "北京"}}', "", [WEATHER]),
    (' {"name": "get_weather", "parameters": {"city": "北京"}}\n', "", [WEATHER]),
    ('{"name": "get_weather", "arguments": {"city": "北京"}} ok', " ok", [WEATHER]),
    (f"<tool_call>{CALL}", "<tool_call>", [WEATHER]),
    (CALL.replace("}\n", "} oops"), " oops</tool_call>", [WEATHER]),
    (CALL.replace("}}\n", "}"), "", [WEATHER]),
    ("a " + CALL.replace("}}", '}, "id": [5, "}"]}') + " b", "a b", [WEATHER]),
    (CALL.replace("}}", '}, "id": 5'), "", [WEATHER]),
    (CALL.replace('{"name"', '{"type": "function", "name"'), "", [WEATHER]),
    (f"{BARE}{BARE}", "", [WEATHER, WEATHER]),
    (f"{BARE}; {BARE} ok", " ok", [WEATHER, WEATHER]),
    (f" [{BARE},\n {BARE}]\n", "", [WEATHER, WEATHER]),
    (f"[{BARE}, 1] ok", ", 1] ok", [WEATHER]),
    (f'{BARE}; {{"city": 1}}', '; {"city": 1}', [WEATHER]),
    (f"```json\n{BARE}\n```\nok", "\nok", [WEATHER]),
    (f"```\n[\n{BARE}\n]\n```", "", [WEATHER]),
    (f"```json\n[{BARE}]\n``", "", [WEATHER]),
    (BARE.replace("{", '{"type": "function", ', 1), "", [WEATHER]),
    (BARE[:-1] + ', "id": 5} after', " after", [WEATHER]),
]
NO_CALLS = [
    *('{"name": "get_money", "arguments": {}}', '{"name": "get_weather"}', '{"name": "get_weather", "arguments": 1}'),
    *('{"city": "北京"}', "{", ' {"na me":"get_weather","arguments":{}}'),
    *("<tool_call>", "<tool_call>get_weather()</tool_call>", '<tool_call>{"name": "x", "arguments": {}}</tool_call>'),
    *('<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>', "<tool_call>{broken", "a < b <tool", "\n \n"),
    *('ok {"name": "get_weather", "arguments": {}}', '```json\n{"city": 1}\n```', "```python\n1\n```", "[1, 2]", " ``"),
    '{"type": "circle", "name": "get_weather", "arguments": {}}',
]


@pytest.mark.parametrize(("answer", "text", "calls"), ANSWERS)
def test_calls_are_found(answer: str, text: str, calls: list[tuple[str, str]]) -> None:
    assert read(answer) == (text, calls)


@pytest.mark.parametrize("answer", NO_CALLS)
def test_what_is_no_call_stays_text_to_the_letter(answer: str) -> None:
    assert read(answer) == (answer, [])


@given(data=st.data(), answer=st.sampled_from([*(answer for answer, *_ in ANSWERS), *NO_CALLS]))
def test_cut_of_the_pieces_changes_nothing(data: st.DataObject, answer: str) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)))))

    pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]

    assert read(*pieces) == read(answer)


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "\n", " ", "{", "}", '"', "\\", "[", ": ", ", ", "a", "<", CALL),
        *('"name"', '"get_time"', '"arguments"', '{"name": "get_time", "arguments": '),
        *("]", ";", "```", "json", BARE),
    ]
)


@settings(max_examples=300)
@given(pieces=st.lists(FRAGMENTS, max_size=12))
def test_no_letter_of_any_answer_is_lost(pieces: list[str]) -> None:
    answer = "".join(pieces)

    text, calls = read(*pieces)

    assert (text, calls) == read(*answer)
    shown = "".join(text.split()) + "".join("".join(arguments.split()) for _, arguments in calls)
    if calls:  # the frames of calls are left out; all else is there
        assert set(shown) <= set("".join(answer.split()))
        assert sum(map(len, shown)) + 200 * len(calls) >= len("".join(answer.split()))
    else:
        assert text == answer


BLANKS = " " * 100_000  # whoever reads them anew from each place, or with each piece, takes minutes


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        (BLANKS, BLANKS, []),
        (f"{BLANKS}ok", f"{BLANKS}ok", []),
        (f"{BLANKS}[{BLANKS}{BARE}{BLANKS}]{BLANKS}", "", [WEATHER]),
        (f"{BARE}{BLANKS}ok", f"{BLANKS}ok", [WEATHER]),
        (f"{BARE}{BLANKS};{BLANKS}{BARE}", "", [WEATHER, WEATHER]),
        (CALL.replace("\n", BLANKS), "", [WEATHER]),
        (CALL.replace("}\n", f"}}{BLANKS}oops"), f"{BLANKS}oops</tool_call>", [WEATHER]),
    ],
)
@pytest.mark.parametrize("piece_len", [1, 1_000_000])
def test_blanks_are_read_once(answer: str, text: str, calls: list[tuple[str, str]], piece_len: int) -> None:
    pieces = [answer[at : at + piece_len] for at in range(0, len(answer), piece_len)]

    assert read(*pieces) == (text, calls)


def test_keys_behind_the_arguments_are_read_once() -> None:
    assert read(CALL.partition("}}")[0] + "}", ', "why": "', *"x" * 100_000, '"}\n</tool_call>') == ("", [WEATHER])


def test_a_second_bare_call_is_text_where_only_one_is_wanted() -> None:
    reader = CallReader(NAMES, lambda: "id0", several=False)

    assert joined([reader.push(f"{BARE}; {BARE}"), reader.finish()]) == (f"; {BARE}", [WEATHER])


def test_name_comes_before_the_arguments_are_there() -> None:
    reader = make_reader()

    early = reader.push('<tool_call>\n{"name": "get_time", "arguments": {"zone')

    assert [(delta.name, delta.arguments) for delta in early.calls] == [("get_time", '{"zone')]


def test_text_without_a_call_is_not_held_back() -> None:
    reader = make_reader()

    assert reader.push("Hello").text == "Hello"
    assert reader.push(" you {").text == " you {"


def test_object_that_is_no_call_is_not_held_back_for_long() -> None:
    assert make_reader().push('{"name": "get_money').text == '{"name": "get_money'


def test_arguments_of_a_call_in_another_order_are_json() -> None:
    _, [(_, arguments)] = read('<tool_call>{"arguments": {"a": [1, null, "ü"]}, "name": "get_time"}</tool_call>')

    assert json.loads(arguments) == {"a": [1, None, "ü"]}
