"""Turns an answer's tokens into text and finds stop texts in it; knows nothing of the model."""

from collections.abc import Sequence as Texts

from modelkit.text_stream import TextStream
from modelkit.tokenizer import Tokenizer


class Detokenizer:
    """The text of one answer, whole characters at a time, ending before the first stop text.

    Text that may be the start of a stop text is held back until the next token decides. What the first min_tokens
    tokens say is no part of a stop text.
    """

    def __init__(self, tokenizer: Tokenizer, stop_texts: Texts[str], min_tokens: int = 0) -> None:
        self._tokenizer = tokenizer
        self._stop_texts = stop_texts
        self._num_exempt = min_tokens  # tokens yet to come that no stop text can be found in
        self._stream = TextStream()
        self._held = ""
        self.stopped = False  # a stop text came up; nothing more will be shown

    def push(self, token_id: int) -> str:
        """Take the next token; returns the text that may be shown now."""
        text = self._stream.push(self._tokenizer.token_bytes(token_id))
        if self._num_exempt > 0:
            self._num_exempt -= 1
            return text
        return self._release(text)

    def finish(self) -> str:
        """Return what was held back, once no token will follow."""
        text = self._release(self._stream.finish())
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        start = self._find_stop(text)
        if start is not None:
            self.stopped, self._held = True, ""
            return text[:start]
        keep = max((overlap(text, stop) for stop in self._stop_texts), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _find_stop(self, text: str) -> int | None:
        """Where the stop text that is complete first begins, however the text was cut into tokens."""
        found = [(start + len(stop), start) for stop in self._stop_texts if (start := text.find(stop)) >= 0]
        return min(found)[1] if found else None


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that is a beginning of stop, but not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
