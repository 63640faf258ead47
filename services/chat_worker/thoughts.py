"""Splits an answer into the model's thinking and the rest while it is written; knows no protobuf and no engine."""

from collections.abc import Iterable
from enum import Enum
from typing import Final

from modelkit.conversation import THOUGHT_END, THOUGHT_START
from services.chat_worker.detok import overlap

_END_BYTES: Final = THOUGHT_END.encode()


class Part(Enum):
    """What an answer is in the middle of."""

    START = "start"  # it may begin with thinking
    THOUGHT = "thought"
    GAP = "gap"  # blanks between the thinking and the rest
    TEXT = "text"


class ThoughtReader:
    """Takes one answer piece by piece.

    Thinking stands between tags at the very beginning, or the prompt has opened it already; the first end tag ends it.
    Tags are dropped, and the blanks beside them. Thinking that is cut short stays thinking.
    Source: the model cards of 360Zhinao3-7B-O1.5, DeepSeek-R1 and Qwen3.
    """

    def __init__(self, part: Part) -> None:
        """part: what the answer begins with; of one that begins with TEXT nothing is split off."""
        self._part = part
        self._held = ""  # text of which nobody knows yet what it is
        self._thought = ""  # what is new of the thinking
        self._has_thought = part is Part.THOUGHT
        self._says_nothing_yet = True  # the thinking
        self._tail = b""  # of the bytes of all tokens, as long as the thinking has not ended
        self._num_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the thinking, tags included, among those taken so far."""
        return self._num_tokens if self._has_thought else 0

    def push(self, text: str, tokens: Iterable[bytes] = (), *, last: bool = False) -> tuple[str, str]:
        """Take the next piece and its tokens' bytes; returns what can be told now of the thinking, and of the rest.

        last: nothing will follow.
        """
        if self._splits_nothing():
            return "", text
        self._count(tokens)
        self._held += text
        steps = {Part.START: self._read_start, Part.THOUGHT: self._read_thought, Part.GAP: self._read_gap}
        while self._part in steps and steps[self._part]():
            pass
        if last and self._part is Part.THOUGHT:
            self._think(self._held.rstrip())
        thought, self._thought = self._thought, ""
        if self._splits_nothing() or (last and self._part is Part.START):
            return thought, self._held
        return thought, ""

    def _splits_nothing(self) -> bool:
        return self._part is Part.TEXT

    # Each of these reads what it can of the held text; True if another part has begun.

    def _read_start(self) -> bool:
        begun = self._held.lstrip()
        if begun.startswith(THOUGHT_START):
            self._part, self._held, self._has_thought = Part.THOUGHT, begun.removeprefix(THOUGHT_START), True
            return True
        if not THOUGHT_START.startswith(begun):
            self._part = Part.TEXT
        return False

    def _read_thought(self) -> bool:
        thought, tag, rest = self._held.partition(THOUGHT_END)
        if tag:
            self._think(thought.rstrip())
            self._part, self._held = Part.GAP, rest
            return True
        end = len(thought[: len(thought) - overlap(thought, THOUGHT_END)].rstrip())  # blanks may stand before the tag
        self._think(thought[:end])
        self._held = thought[end:]
        return False

    def _read_gap(self) -> bool:
        self._held = self._held.lstrip()
        if self._held:
            self._part = Part.TEXT
        return False

    def _think(self, text: str) -> None:
        self._thought += text.lstrip() if self._says_nothing_yet else text
        self._says_nothing_yet = not self._thought and self._says_nothing_yet

    def _count(self, tokens: Iterable[bytes]) -> None:
        for data in tokens:
            if _END_BYTES in self._tail:
                return
            self._num_tokens += 1
            self._tail = self._tail[1 - len(_END_BYTES) :] + data
