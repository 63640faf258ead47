"""Finds calls of functions in the text of an answer while it is written; knows no tokens and no protobuf."""

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, cast

from modelkit.conversation import CALL_END, CALL_START
from services.chat_worker.detok import overlap

_BLANKS: Final = re.compile(r"\s+")
_TAGGED_END: Final = re.compile(rf"\s*+\}}?\s*+{CALL_END}")
_KEYS: Final = ("arguments", "parameters")  # Hermes', Llama 3's
_TYPE: Final = ("", '"type":"function",')  # Llama 3 may put it first
_FENCE: Final = "```"
_FIRST: Final = tuple(fence + bracket for fence in ("", _FENCE, f"{_FENCE}json") for bracket in ("", " ["))
_FRAMES: Final = (("[", "]"), (_FENCE, _FENCE))  # what opens and what closes one, the inner first
_NEXT: Final = ("", ",", ";")


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
    OTHER_KEYS = "other keys"  # behind the arguments, which nobody has a use for


class CallReader:
    """Splits an answer into text and calls as it grows.

    A call is `{"name": ..., "arguments": {...}}`, its name one of `names`: between Hermes' tags anywhere, or bare, as
    the whole answer. Bare ones may be several, in an array or one after the other, and in a code fence. What turns out
    to be no call is text again, to the letter; blanks around calls and what frames them are dropped, as are other keys.
    """

    def __init__(self, names: Collection[str], make_id: Callable[[], str], *, several: bool = True) -> None:
        """several: whether more than one bare call is a call."""
        self._names = names
        self._tagged_head = _Head(names, ("",))
        self._next_head = _Head(names, _NEXT) if several else None
        self._bare_head: _Head | None = _Head(names, _FIRST)  # how a bare call might begin here
        self._closers: list[str] = []  # what ends the frame of bare calls
        self._state = _State.TEXT
        self._tagged = False
        self._scanner = _ObjectScanner()
        self._held: str = ""  # text that may yet belong to a call
        self._found = _Findings(make_id)

    def push(self, text: str) -> Found:
        """Take the next piece of the answer; returns what can be told now."""
        self._read(text)
        return self._found.take()

    def finish(self, text: str = "") -> Found:
        """Take the last piece and tell the rest, as nothing will follow."""
        self._read(text)
        if self._state is _State.HEAD:
            self._close_head(self._held)
        elif self._state is _State.TEXT and not (self._found.num_calls and self._may_close()):
            self._found.texts.append(self._held)
        self._held = ""
        return self._found.take()

    def _read(self, text: str) -> None:
        more_blanks = text.isspace() and self._held[-1:].isspace()
        self._held += text
        if more_blanks:  # decide nothing; a model may write them for ever
            return
        steps = {
            _State.TEXT: self._read_text,
            _State.HEAD: self._read_head,
            _State.ARGUMENTS: self._read_arguments,
            _State.TAIL: self._read_tail,
            _State.OTHER_KEYS: self._read_other_keys,
        }
        while self._held and steps[self._state]():
            pass

    # Each of these reads what it can of the held text; True if another state has the word now.

    def _read_text(self) -> bool:
        if self._bare_head is not None:
            if (head := self._bare_head.match(self._held)) is not None:
                self._closers += [closer for opener, closer in _FRAMES if opener in head[1]]
                self._tagged = False
                self._begin_arguments(head, self._held)
                return True
            if self._bare_head.may_come(self._held):
                return False
            self._bare_head = None
        while self._closers and self._held.lstrip().startswith(self._closers[0]):
            self._held = self._held.lstrip().removeprefix(self._closers.pop(0))
        if self._closers and self._may_close():
            return False
        self._closers.clear()
        start = self._held.find(CALL_START)
        kept = len(self._held[:start].rstrip()) if start >= 0 else _may_begin_call(self._held)
        self._found.texts.append(self._held[:kept])
        self._held = self._held[kept:]
        if start < 0:
            return False
        self._state, self._tagged = _State.HEAD, True
        return True

    def _may_close(self) -> bool:
        """Whether the held text is a beginning of what ends the frame."""
        return "".join(self._closers).startswith(_BLANKS.sub("", self._held))

    def _read_head(self) -> bool:
        start = self._held.index(CALL_START) + len(CALL_START)
        body = self._held[start:]
        if (head := self._tagged_head.match(body)) is not None:
            self._begin_arguments(head, body)
            return True
        if body.lstrip()[:1] not in ("", "{"):
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
        self._found.add_arguments(self._held[:end])
        self._held = "" if end is None else self._held[end:]
        self._state = _State.ARGUMENTS if end is None else _State.TAIL
        return end is not None

    def _read_tail(self) -> bool:
        dense = _BLANKS.sub("", self._held)
        if dense == ",":
            return False
        if dense.startswith(',"'):
            self._state, self._scanner = _State.OTHER_KEYS, _ObjectScanner(depth=1)
            return True
        expected = [f"}}{CALL_END}", CALL_END] if self._tagged else ["}"]  # a model may forget the brace
        if any(end != dense and end.startswith(dense) for end in expected):
            return False
        end = _TAGGED_END.match(self._held) if self._tagged else None
        self._held = self._held[end.end() :] if end else self._held.lstrip().removeprefix("}")
        self._state = _State.TEXT
        self._bare_head = None if self._tagged else self._next_head
        return True

    def _read_other_keys(self) -> bool:
        end = self._scanner.find_end(self._held)
        self._held = "" if end is None else "}" + self._held[end:]
        self._state = _State.OTHER_KEYS if end is None else _State.TAIL
        return end is not None

    def _begin_arguments(self, head: re.Match[str], text: str) -> None:
        self._found.begin_call(head[2])
        self._held = text[head.end() :]
        self._scanner = _ObjectScanner()
        self._state = _State.ARGUMENTS

    def _close_head(self, written: str) -> None:
        """Tell a call whose parts came in another order, or that it is none."""
        call = _read_call(written.lstrip().removeprefix(CALL_START).removesuffix(CALL_END), self._names)
        if call is None:
            self._found.texts.append(written)
        else:
            self._found.begin_call(call[0])
            self._found.add_arguments(call[1])


class _Findings:
    """What was found in an answer and is not told yet."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id
        self.texts: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self.num_calls = 0

    def take(self) -> Found:
        found = Found("".join(self.texts), tuple(self._calls), self.num_calls)
        self.texts, self._calls = [], []
        return found

    def begin_call(self, name: str) -> None:
        self._calls.append(ToolCallDelta(self.num_calls, self._make_id(), name))
        self.num_calls += 1

    def add_arguments(self, text: str) -> None:
        """Clients expect one part of a call in a chunk: what is new joins the part that is waiting already."""
        index = self.num_calls - 1
        waiting = self._calls.pop() if self._calls and self._calls[-1].index == index else ToolCallDelta(index)
        self._calls.append(replace(waiting, arguments=waiting.arguments + text))


class _Head:
    """How calls begin, up to their arguments: groups 1 and 2 of a match are the opener and the name."""

    def __init__(self, names: Collection[str], openers: Sequence[str]) -> None:
        """openers: what may come before a call; a space stands for any blanks."""
        any_opener = "|".join(re.escape(opener).replace(r"\ ", r"\s*+") for opener in openers)
        any_name, any_key = "|".join(map(re.escape, names)), "|".join(_KEYS)
        self._pattern = re.compile(
            rf'\s*+({any_opener})\s*+\{{\s*(?:"type"\s*:\s*"function"\s*,\s*)?'
            rf'"name"\s*:\s*"({any_name})"\s*,\s*"(?:{any_key})"\s*:\s*(?=\{{)'
        )
        self._openers = [opener.replace(" ", "") for opener in openers]
        self._dense = [f'{{{kind}"name":"{name}","{key}":{{' for kind in _TYPE for name in names for key in _KEYS]

    def match(self, text: str) -> re.Match[str] | None:
        return self._pattern.match(text)

    def may_come(self, text: str) -> bool:
        """Whether the text, blanks aside, is the beginning of a head."""
        dense = _BLANKS.sub("", text)
        rests = [dense[len(opener) :] for opener in self._openers if dense.startswith(opener)]
        return any(opener.startswith(dense) for opener in self._openers) or any(
            head != rest and head.startswith(rest) for rest in rests for head in self._dense
        )


class _ObjectScanner:
    """Finds the end of a JSON object, so many of whose brackets are open already, that comes in pieces."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
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
