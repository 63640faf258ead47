"""Guessing ahead: what is proposed, and that guessing stops where it does not pay."""

import hypothesis.strategies as st
from hypothesis import given

from services.chat_worker.engine.speculate import PromptLookup, Speculation


def plain_guess(token_ids: list[int], num_tokens: int) -> list[int]:
    """The continuation of the last three tokens' newest earlier occurrence, found by looking at all of them."""
    text = list(token_ids)
    for start in range(len(text) - 1, 2, -1):
        if text[start - 3 : start] == token_ids[-3:]:
            for offset in range(num_tokens):
                text.append(text[start + offset])
            return text[len(token_ids) :]
    return []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.lists(st.integers(1, 9), max_size=60))
def test_a_guess_continues_the_newest_earlier_occurrence_of_the_last_tokens(text: list[int], cuts: list[int]) -> None:
    lookup = PromptLookup()
    known = 1
    for cut in (*cuts, len(text)):
        known = min(len(text), known + cut)
        assert list(lookup.propose(text[:known], 5)) == plain_guess(text[:known], 5)


def test_a_guess_never_goes_beyond_what_may_follow() -> None:
    speculation = Speculation()
    text = [1, 2, 3, 4, 1, 2, 3]
    assert speculation.draft(text, most=2, price=0) == (4, 1)
    assert speculation.draft(text, most=0, price=0) == ()


def test_guesses_grow_longer_while_they_hold_and_shorter_when_they_do_not() -> None:
    speculation = Speculation()
    text = [1, 2, 3] * 5
    assert len(speculation.draft(text, most=99, price=0)) == 4
    speculation.note(4, 4)
    assert len(speculation.draft(text, most=99, price=0)) == 8
    speculation.note(8, 1)
    assert len(speculation.draft(text, most=99, price=0)) == 2
    assert (speculation.num_accepted, speculation.num_rejected) == (5, 7)


def test_guessing_pauses_when_it_does_not_pay_and_tries_again_ever_more_rarely() -> None:
    speculation = Speculation()
    text = [1, 2, 3] * 3
    tries: list[int] = []
    for _ in range(2000):
        if drafted := len(speculation.draft(text, most=99, price=0.5)):
            speculation.note(drafted, 0)
            tries.append(len(text))
        text.append(text[-3])
    assert 10 < len(tries) < 50
    assert sum(at > 1000 for at in tries) < sum(at < 200 for at in tries)


def test_guesses_that_never_pay_are_not_made() -> None:
    assert Speculation().draft([1, 2, 3] * 3, most=99, price=1.0) == ()
