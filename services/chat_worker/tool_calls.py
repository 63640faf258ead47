"""Finds calls of functions in the text of an answer while it is written; knows no tokens and no protobuf."""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, cast

from modelkit.conversation import CALL_END, CALL_START
from services.chat_worker.detok import overlap

_BLANKS: Final = re.compile(r"\s+")
_TAGGED_END: Final = re.compile(rf"\s*\}}?\s*{CALL_END}")
_KEYS: Final = ("arguments", "parameters")  # Hermes', Llama 3's


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """What is new of a call: id and name with its first part, then pieces of the arguments' JSON."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What is new in an answer: text that belongs to no call, and parts of calls. num_calls: calls begun so far."""

    text: str = ""
    calls: tuple[ToolCallDelta, ...] = ()
    num_calls: int = 0


class _State(Enum):
    TEXT = "text"  # outside of calls
    HEAD = "head"  # a call has begun, its name is not known
    ARGUMENTS = "arguments"
    TAIL = "tail"  # behind the arguments


class CallReader:
    """Splits an answer into text and calls as it grows.

    A call is `{"name": ..., "arguments": {...}}`, between Hermes' tags anywhere or as the whole answer; its name must
    be one of `names`. What turns out to be no call is text again, to the letter; only blanks around calls are dropped.
    """

    def __init__(self, names: Collection[str], make_id: Callable[[], str]) -> None:
        self._names = names
        self._make_id = make_id
        any_name, any_key = "|".join(map(re.escape, names)), "|".join(_KEYS)
        self._head = re.compile(rf'\s*\{{\s*"name"\s*:\s*"({any_name})"\s*,\s*"(?:{any_key})"\s*:\s*(?=\{{)')
        self._dense_heads = [f'{{"name":"{name}","{key}":{{' for name in names for key in _KEYS]
        self._state = _State.TEXT
        self._tagged = False
        self._scanner = _ObjectScanner()
        self._held: str = ""  # text that may yet belong to a call
        self._at_start = True  # nothing but blanks so far
        self._texts: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._num_calls = 0

    def push(self, text: str) -> Found:
        """Take the next piece of the answer; returns what can be told now."""
        self._read(text)
        return self._take()

    def finish(self, text: str = "") -> Found:
        """Take the last piece and tell the rest, as nothing will follow."""
        self._read(text)
        if self._state is _State.HEAD:
            self._close_head(self._held)
        elif self._state is _State.TEXT and not (self._num_calls and self._held.isspace()):
            self._texts.append(self._held)
        self._held = ""
        return self._take()

    def _read(self, text: str) -> None:
        self._held += text
        steps = {
            _State.TEXT: self._read_text,
            _State.HEAD: self._read_head,
            _State.ARGUMENTS: self._read_arguments,
            _State.TAIL: self._read_tail,
        }
        while self._held and steps[self._state]():
            pass

    def _take(self) -> Found:
        found = Found("".join(self._texts), tuple(self._calls), self._num_calls)
        self._texts, self._calls = [], []
        return found

    # Each of these reads what it can of the held text; True if another state has the word now.

    def _read_text(self) -> bool:
        start = self._held.find(CALL_START)
        bare = self._at_start and self._held.lstrip().startswith("{")
        if bare or start >= 0:
            if not bare:
                start = len(self._held[:start].rstrip())
                self._say(self._held[:start])
                self._held = self._held[start:]
            self._state, self._tagged = _State.HEAD, not bare
            return True
        kept = _may_begin_call(self._held)
        self._say(self._held[:kept])
        self._held = self._held[kept:]
        return False

    def _read_head(self) -> bool:
        start = self._held.index(CALL_START) + len(CALL_START) if self._tagged else 0
        body = self._held[start:]
        if (head := self._head.match(body)) is not None:
            self._begin_call(head[1])
            self._held = body[head.end() :]
            self._scanner = _ObjectScanner()
            self._state = _State.ARGUMENTS
            return True
        if not self._tagged:
            dense = _BLANKS.sub("", body)
            if any(head != dense and head.startswith(dense) for head in self._dense_heads):
                return False
            end = 1  # so that the brace is not taken for the beginning of a call again
        elif body.lstrip()[:1] not in ("", "{"):
            end = start
        elif (end := body.find(CALL_END)) >= 0:
            end += start + len(CALL_END)
        else:
            return False
        self._close_head(self._held[:end])
        self._held = self._held[end:]
        self._state = _State.TEXT
        return True

    def _read_arguments(self) -> bool:
        end = self._scanner.find_end(self._held)
        self._add_arguments(self._held[:end])
        self._held = "" if end is None else self._held[end:]
        self._state = _State.ARGUMENTS if end is None else _State.TAIL
        return end is not None

    def _read_tail(self) -> bool:
        dense = _BLANKS.sub("", self._held)
        expected = [f"}}{CALL_END}", CALL_END] if self._tagged else ["}"]  # a model may forget the brace
        if any(end != dense and end.startswith(dense) for end in expected):
            return False
        end = _TAGGED_END.match(self._held) if self._tagged else None
        self._held = self._held[end.end() :] if end else self._held.lstrip().removeprefix("}")
        self._state = _State.TEXT
        return True

    def _say(self, text: str) -> None:
        self._at_start = self._at_start and not text.strip()
        self._texts.append(text)

    def _begin_call(self, name: str) -> None:
        self._at_start = False
        self._calls.append(ToolCallDelta(self._num_calls, self._make_id(), name))
        self._num_calls += 1

    def _add_arguments(self, text: str) -> None:
        """Clients expect one part of a call in a chunk: what is new joins the part that is waiting already."""
        index = self._num_calls - 1
        waiting = self._calls.pop() if self._calls and self._calls[-1].index == index else ToolCallDelta(index)
        self._calls.append(replace(waiting, arguments=waiting.arguments + text))

    def _close_head(self, written: str) -> None:
        """Tell a call whose parts came in another order, or that it is none."""
        call = _read_call(written.lstrip().removeprefix(CALL_START).removesuffix(CALL_END), self._names)
        if call is None:
            self._say(written)
        else:
            self._begin_call(call[0])
            self._add_arguments(call[1])


class _ObjectScanner:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find_end(self, text: str) -> int | None:
        """How much of the next piece belongs to the object; None if it goes on."""
        for position, letter in enumerate(text):
            if self._in_string:
                self._escaped, self._in_string = letter == "\\" and not self._escaped, letter != '"' or self._escaped
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return position + 1
        return None


def _may_begin_call(text: str) -> int:
    """Where the blanks and the beginning of a tag start with which the text ends."""
    return len(text[: len(text) - overlap(text, CALL_START)].rstrip())


def _read_call(text: str, names: Collection[str]) -> tuple[str, str] | None:
    """Name and arguments of a call as a whole, None if it is none."""
    try:
        call: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict):
        return None
    fields = cast("dict[str, object]", call)
    name, arguments = fields.get("name"), fields.get("arguments", fields.get("parameters"))
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
