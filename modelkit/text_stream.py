"""Turns a stream of token bytes into text, whole characters only; knows no tokens and no stop strings."""

import codecs


class TextStream:
    """Decodes UTF-8 piece by piece. All that push and finish return, joined, is `bytes.decode("utf-8", "replace")`."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, piece: bytes) -> str:
        """The text that is complete now; a character whose bytes are still missing waits."""
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """What a cut-off character leaves: replacement characters, or nothing."""
        return self._decoder.decode(b"", final=True)
