"""Checks that thinking is split from an answer however it is cut, and that its tokens are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkit.conversation import THOUGHT_END
from services.chat_worker.thoughts import Part, ThoughtReader

# The answer as the model writes it, where it begins, its thinking and the rest.
ANSWERS = [
    ("", Part.START, "", ""),
    ("Hello", Part.START, "", "Hello"),
    (" \n Hello <think>no</think>", Part.START, "", " \n Hello <think>no</think>"),
    ("<thin", Part.START, "", "<thin"),
    ("<thinking>x", Part.START, "", "<thinking>x"),
    ("<think>a b</think>c", Part.START, "a b", "c"),
    ("\n<think>\n a\n\nb \n</think>\n\n c\n", Part.START, "a\n\nb", "c\n"),
    ("<think></think>yes", Part.START, "", "yes"),
    ("<think>\n\n</think>\n\nyes", Part.START, "", "yes"),
    ("<think>a</thin", Part.START, "a</thin", ""),
    ("<think>a </think", Part.START, "a </think", ""),
    ("<think>not done \n", Part.START, "not done", ""),
    ("<think>a</think>", Part.START, "a", ""),
    ("<think>a</think>b</think>c", Part.START, "a", "b</think>c"),
    ("<think>a<think>b</think>c", Part.START, "a<think>b", "c"),
    ("a</think>b", Part.THOUGHT, "a", "b"),
    ("\n<think>a</think>b", Part.THOUGHT, "<think>a", "b"),
    ("a</think>b", Part.TEXT, "", "a</think>b"),
]


def read(part: Part, pieces: list[str]) -> tuple[str, str, int]:
    """Thinking, rest and the thinking's tokens; each character is a token, whose byte comes with its text."""
    reader = ThoughtReader(part)
    told = [
        reader.push(piece, [letter.encode() for letter in piece], last=number == len(pieces))
        for number, piece in enumerate(pieces, start=1)
    ]
    return "".join(thought for thought, _ in told), "".join(text for _, text in told), reader.num_tokens


@pytest.mark.parametrize(("answer", "part", "thought", "text"), ANSWERS)
def test_an_answer_is_split_however_it_is_cut(answer: str, part: Part, thought: str, text: str) -> None:
    whole = read(part, [answer])

    assert whole[:2] == (thought, text)
    assert read(part, [*answer, ""]) == whole
    for cut in range(len(answer) + 1):
        assert read(part, [answer[:cut], answer[cut:]]) == whole


@given(
    pieces=st.lists(
        st.sampled_from(["<think>", "</think>", "<", "/think>", "think>", " ", "\n", "a", "你"]), min_size=1
    ),
    part=st.sampled_from([Part.START, Part.THOUGHT, Part.TEXT]),
)
def test_any_cut_tells_the_same_and_loses_nothing_but_tags_and_blanks(pieces: list[str], part: Part) -> None:
    answer = "".join(pieces)
    thought, text, num_tokens = read(part, pieces)

    assert read(part, [answer]) == (thought, text, num_tokens)
    assert THOUGHT_END not in thought
    assert thought == thought.strip()
    if part is Part.TEXT or (part is Part.START and not answer.lstrip().startswith("<think>")):
        assert (thought, text, num_tokens) == ("", answer, 0)
    else:
        body, tag, rest = answer.lstrip().removeprefix("<think>" if part is Part.START else "").partition(THOUGHT_END)
        assert (thought, text) == (body.strip(), rest.lstrip())
        assert num_tokens == len(answer) - len(rest if tag else "")


def test_the_thinking_is_told_while_it_is_written() -> None:
    reader = ThoughtReader(Part.START)

    told = [reader.push(piece) for piece in ("<th", "ink>\n", "Let", " me", " think <", "b> ", "</think>", "\n", "Yes")]

    assert [thought for thought, _ in told] == ["", "", "Let", " me", " think", " <b>", "", "", ""]
    assert [text for _, text in told] == ["", "", "", "", "", "", "", "", "Yes"]


def test_a_token_across_the_end_counts_as_thinking() -> None:
    reader = ThoughtReader(Part.THOUGHT)
    reader.push("a</think>b", [b"a", b"</th", b"ink>b", b"c"])

    assert reader.num_tokens == 3
