"""Decides what is thinking, text and calls in the answers to one request while they are written."""

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass

from services.chat_worker.engine.generation import Piece
from services.chat_worker.thoughts import Part, ThoughtReader
from services.chat_worker.tool_calls import CallReader, Found


@dataclass(frozen=True, slots=True)
class Contents:
    """What is new in an answer: thinking, and what was found in the rest. reasoning_tokens: of the thinking so far."""

    found: Found
    reasoning: str = ""
    reasoning_tokens: int = 0


class AnswerReaders:
    """The readers of a request's answers. token_bytes: see Tokenizer."""

    def __init__(
        self,
        begins_with: Part,
        names: Collection[str],
        token_bytes: Callable[[int], bytes],
        *,
        several_calls: bool = True,
    ) -> None:
        """begins_with: what each answer begins with. names: the functions that it may call."""
        self._begins_with = begins_with
        self._names = names
        self._several_calls = several_calls
        self._token_bytes = token_bytes
        self._readers: dict[int, tuple[ThoughtReader, CallReader]] = {}

    def read(self, piece: Piece) -> Contents:
        """Take the next piece of an answer."""
        if self._begins_with is Part.TEXT and not self._names:
            return Contents(Found(piece.text))
        if (readers := self._readers.get(piece.index)) is None:
            calls = CallReader(self._names, _new_call_id, several=self._several_calls)
            readers = ThoughtReader(self._begins_with), calls
            self._readers[piece.index] = readers
        thoughts, calls = readers
        last = piece.finish is not None
        tokens = (self._token_bytes(token.token_id) for token in piece.tokens)
        reasoning, text = thoughts.push(piece.text, tokens, last=last)
        if not self._names:
            return Contents(Found(text), reasoning, thoughts.num_tokens)
        return Contents(calls.finish(text) if last else calls.push(text), reasoning, thoughts.num_tokens)


def _new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"
