"""Reads and writes a Hugging Face `tokenizer.json` with a byte-level vocabulary; knows no chat format."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from tokenizers import Tokenizer, decoders, models

from modelkit.tokenizer_config import TokenizerConfig


def _byte_letters() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary: itself when printable, else from U+0100 on.

    Source: the bytes-to-unicode table of GPT-2.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


_LETTER_OF: Final = MappingProxyType(_byte_letters())
_BYTE_OF: Final = MappingProxyType({letter: byte for byte, letter in _LETTER_OF.items()})


class FastTokenizer:
    """A byte-level BPE as the `tokenizers` library runs it, with control tokens kept out of plain text."""

    def __init__(self, backend: Tokenizer, config: TokenizerConfig) -> None:
        """backend becomes this object's own and is adjusted. Raises ValueError when it is not a byte-level BPE."""
        _require_byte_level(backend)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # control strings in text are text
        backend.model.unk_token = None  # usually a control token; a byte that has no token adds nothing instead
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        special = [token.content for token in added.values() if token.special]
        ids = {text: backend.token_to_id(text) for text in [*special, *config.named_tokens.values()]}
        letter_ids = {backend.token_to_id(letter) for letter in _BYTE_OF}  # `!` as pad_token: a byte must stay text
        self._control_ids = MappingProxyType(
            {text: i for text, i in ids.items() if i is not None and i not in letter_ids}
        )
        self._bytes = self._list_bytes({i: token.content for i, token in added.items()})
        self._spelled = {i: self._spell(text) for text, i in self._control_ids.items()}
        self._prefix_ids = self._find_prefix()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a tokenizer.json and the tokenizer_config.json beside it. Raises ValueError saying what is wrong."""
        try:
            backend = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(str(error)) from error
        return cls(backend, TokenizerConfig.read(path.parent))

    @property
    def vocab_size(self) -> int:
        """The highest id in use, plus one."""
        return len(self._bytes)

    @property
    def control_ids(self) -> Mapping[str, int]:
        """The added tokens that are marked special, and those the config names (`eos_token` and its like)."""
        return self._control_ids

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What the checkpoint's own post-processor puts before a text, e.g. Llama-3's `<|begin_of_text|>`."""
        return self._prefix_ids

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; see Tokenizer.encode."""
        # Unlike `encode`, the batch's way leaves the interpreter to other threads: a long text takes seconds.
        ids = self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if self._spelled.keys().isdisjoint(ids):
            return ids
        # The vocabulary's own merges lead to a control token: leave it in single bytes.
        return [piece for token_id in ids for piece in self._spelled.get(token_id, (token_id,))]

    def token_bytes(self, token_id: int) -> bytes:
        """What an id adds to the text; see Tokenizer.token_bytes."""
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._bytes[token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; see Tokenizer.decode."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def _list_bytes(self, added: Mapping[int, str]) -> list[bytes]:
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        listed = [b""] * (max(vocabulary.values()) + 1)
        for text, token_id in vocabulary.items():
            spelled_plainly = token_id in added or not _BYTE_OF.keys() >= set(text)
            listed[token_id] = text.encode() if spelled_plainly else bytes(_BYTE_OF[letter] for letter in text)
        for token_id in self._control_ids.values():
            listed[token_id] = b""
        return listed

    def _spell(self, text: str) -> tuple[int, ...]:
        """The ids of a text byte by byte; a byte that has no token of its own is left out, as the BPE does."""
        letters = (self._backend.token_to_id(_LETTER_OF[byte]) for byte in text.encode())
        return tuple(token_id for token_id in letters if token_id is not None)

    def _find_prefix(self) -> tuple[int, ...]:
        example = self._backend.encode("a", add_special_tokens=True)
        marked = zip(example.ids, example.special_tokens_mask, strict=True)
        return tuple(token_id for token_id, _ in takewhile(lambda pair: pair[1], marked))


def _require_byte_level(backend: Tokenizer) -> None:
    if not isinstance(backend.model, models.BPE):
        raise ValueError(f"model is {type(backend.model).__name__}, only BPE is supported")
    if not isinstance(backend.decoder, decoders.ByteLevel):
        raise ValueError(f"decoder is {type(backend.decoder).__name__}, only ByteLevel is supported")
