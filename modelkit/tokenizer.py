"""States what a tokenizer is to the rest of the project and picks the one a checkpoint needs; knows no vocabulary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from modelkit.tokenizer_fast import FastTokenizer
from modelkit.tokenizer_zhinao import ZhinaoTokenizer


class TokenizerError(ValueError):
    """A checkpoint's tokenizer is missing, broken or of an unsupported kind; the message starts with the path."""


class Tokenizer(Protocol):
    """Turns text into token ids and ids into bytes. Implementations are immutable and safe to share by threads."""

    @property
    def vocab_size(self) -> int:
        """Ids in use are 0 .. vocab_size - 1; logits at or beyond it are padding and must be masked."""
        ...

    @property
    def control_ids(self) -> Mapping[str, int]:
        """The control tokens by their text, e.g. `<|im_end|>`."""
        ...

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What belongs before a raw text prompt (begin of text); empty for most. Chat templates bring their own."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of plain text, without prefix. Never yields a control token, whatever the text says."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """What an id adds to the text: nothing for a control token. Raises ValueError beyond the vocabulary."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD. Raises ValueError beyond the vocabulary."""
        ...


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a checkpoint folder's tokenizer: a Zhinao rank file, else a Hugging Face `tokenizer.json`.

    The rank file is `vocab/360.tiktoken` or the only `*.tiktoken` in the folder.
    Raises TokenizerError naming the file when there is none, or several, or it is broken.
    """
    named = folder / "vocab" / "360.tiktoken"
    rank_files = [named] if named.is_file() else sorted(folder.glob("*.tiktoken"))
    if len(rank_files) > 1:
        names = ", ".join(path.name for path in rank_files)
        raise TokenizerError(f"{folder}: {len(rank_files)} rank files, expected 1: {names}")
    path = rank_files[0] if rank_files else folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"{folder}: neither a *.tiktoken rank file nor a tokenizer.json")
    try:
        return ZhinaoTokenizer.read(path) if rank_files else FastTokenizer.read(path)
    except ValueError as error:
        raise TokenizerError(f"{path}: {error}") from error
