"""Checks which turns a conversation that is too long loses."""

from collections.abc import Sequence

import pytest

from modelkit.conversation import Message, drop_oldest_rounds


def letters(messages: Sequence[Message]) -> list[int]:
    """One token for each letter of the contents."""
    return [ord(letter) for message in messages for letter in message.content]


SYSTEM, FIRST, SECOND, THIRD = "system:s", "user:aaaa assistant:bbbb", "user:cc assistant:dd assistant:e", "user:f"


def conversation(*rounds: str) -> list[Message]:
    return [Message(*turn.split(":")) for turn in " ".join(rounds).split()]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (15, [SYSTEM, FIRST, SECOND, THIRD]),
        (14, [SYSTEM, SECOND, THIRD]),
        (7, [SYSTEM, SECOND, THIRD]),
        (6, [SYSTEM, THIRD]),
        (2, [SYSTEM, THIRD]),
        (1, [SYSTEM, THIRD]),
    ],
)
def test_whole_rounds_are_dropped_oldest_first(limit: int, kept: list[str]) -> None:
    messages = conversation(SYSTEM, FIRST, SECOND, THIRD)  # one token a letter: 1 + 8 + 5 + 1

    assert drop_oldest_rounds(messages, limit, letters) == conversation(*kept)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("assistant:hello user:a", "user:a"),
        ("user:a system:s assistant:b user:c assistant:d", "system:s user:c assistant:d"),
        ("assistant:a assistant:b", "assistant:a assistant:b"),
        ("system:s", "system:s"),
    ],
)
def test_system_turns_and_the_last_round_always_stay(before: str, after: str) -> None:
    assert drop_oldest_rounds(conversation(before), 0, letters) == conversation(after)
