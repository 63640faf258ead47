"""Text of an answer: whole characters, and stop texts wherever tokens cut them."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from services.chat_worker.detok import Detokenizer
from tests.fakes.engine import ByteTokenizer

TOKENIZER = ByteTokenizer()


def pieces(data: bytes, *stop_texts: str) -> list[str]:
    """What is shown after each byte, and at the end."""
    detok = Detokenizer(TOKENIZER, stop_texts)
    shown: list[str] = []
    for byte in data:
        if detok.stopped:
            break
        shown.append(detok.push(byte))
    return [*shown, detok.finish()]


def test_characters_appear_whole() -> None:
    assert pieces("好a".encode()) == ["", "", "好", "a", ""]


def test_an_unfinished_character_becomes_a_replacement_character_at_the_end() -> None:
    assert pieces("好".encode()[:2]) == ["", "", "\ufffd"]


def test_a_stop_text_is_cut_off_and_never_shown_in_part() -> None:
    assert pieces(b"say STOP it", "STOP") == ["s", "a", "y", " ", "", "", "", "", ""]


def test_the_first_tokens_of_an_answer_are_no_part_of_a_stop_text_where_a_least_number_is_asked_for() -> None:
    detok = Detokenizer(TOKENIZER, ("ab",), min_tokens=3)
    shown = [detok.push(byte) for byte in b"abab"]
    assert (shown, detok.stopped) == (["a", "b", "a", "b"], False)
    assert ([detok.push(byte) for byte in b"ab"], detok.stopped) == (["", ""], True)


def test_a_beginning_of_a_stop_text_that_comes_to_nothing_is_shown_later() -> None:
    assert pieces(b"STx", "STOP") == ["", "", "STx", ""]
    assert pieces(b"ST", "STOP") == ["", "", "ST"]


def test_a_repeated_beginning_does_not_hide_the_stop_text() -> None:
    assert "".join(pieces(b"xababab!", "abab!")) == "xab"


@pytest.mark.parametrize(("stops", "shown"), [(("abc", "b"), "a"), (("b", "abc"), "a"), (("abcd", "bc"), "a")])
def test_the_stop_text_that_is_complete_first_wins(stops: tuple[str, ...], shown: str) -> None:
    assert "".join(pieces(b"abcd", *stops)) == shown


@given(
    text=st.text(alphabet="ab好🙂\n", max_size=20),
    stops=st.lists(st.text(alphabet="ab好\n", min_size=1, max_size=4), max_size=3),
)
def test_shown_text_is_the_whole_text_up_to_the_first_complete_stop_text(text: str, stops: list[str]) -> None:
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert "".join(pieces(text.encode(), *stops)) == (text[: min(ends)[1]] if ends else text)
