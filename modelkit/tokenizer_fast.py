"""Reads and writes a Hugging Face `tokenizer.json` with a byte-level vocabulary; knows no chat format."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from tokenizers import Tokenizer, decoders


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary: itself when printable, else from U+0100 on.

    Source: the bytes-to-unicode table of GPT-2.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF: Final = MappingProxyType(_byte_alphabet())


class FastTokenizer:
    """A byte-level tokenizer as the `tokenizers` library runs it, with control tokens kept out of plain text."""

    def __init__(self, backend: Tokenizer) -> None:
        """backend is taken over: its truncation and padding are switched off. Raises ValueError if not byte-level."""
        if not isinstance(backend.decoder, decoders.ByteLevel):
            raise ValueError(f"decoder is {type(backend.decoder).__name__}, only ByteLevel is supported")
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # control strings in text are text
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._control_ids = MappingProxyType({token.content: i for i, token in added.items() if token.special})
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._bytes = [b""] * (max(vocabulary.values()) + 1)
        for text, token_id in vocabulary.items():
            self._bytes[token_id] = text.encode() if token_id in added else _spell(text)
        for token_id in self._control_ids.values():
            self._bytes[token_id] = b""
        self._letters = self._find_letters()
        self._prefix_ids = self._find_prefix()

    @classmethod
    def read(cls, path: Path) -> Self:
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @property
    def control_ids(self) -> Mapping[str, int]:
        return self._control_ids

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        return ()
    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids
    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._bytes[token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; see Tokenizer.decode."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")
