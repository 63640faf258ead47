"""Reads and writes 360Zhinao's vocabulary: a tiktoken rank file and eleven tokens after it; knows no chat format."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import tiktoken

_PATTERN: Final = (  # cl100k's, but every digit stands alone
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ADDED: Final = (  # in id order, from the first id after the mergeable ranks
    *("<pad>", "<unk>", "<mask>", "<eod>", "<eop>"),
    *("[space2]", "[space3]", "[space4]", "[space8]"),
    *("<|im_start|>", "<|im_end|>"),
)
_SPACES: Final = MappingProxyType({"[space8]": 8, "[space4]": 4, "[space3]": 3, "[space2]": 2})  # tried in this order
_SPACE_RUN: Final = re.compile("( {2,})")
_BLANK_RUN: Final = re.compile(r"[^\S\r\n]+")
_MAX_BLANK_RUN: Final = 500_000  # tiktoken's regex engine dies on a million characters


class ZhinaoTokenizer:
    """360Zhinao's byte-level BPE. Source: tokenization_zhinao.py.

    Runs of spaces become the four space tokens by length, never by their name: a user's literal `[space4]` stays text,
    as do control strings. The original also rewrites `[br]` and `<br>` to a newline; that loses text, so we do not.
    """

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        """ranks: every token's bytes to its id; the ids are 0 .. len(ranks) - 1 and all 256 single bytes are there."""
        self._bpe = tiktoken.Encoding("zhinao", pat_str=_PATTERN, mergeable_ranks=dict(ranks), special_tokens={})
        added = {text: len(ranks) + offset for offset, text in enumerate(_ADDED)}
        self._spaces = tuple((width, added[text]) for text, width in _SPACES.items())
        self._control_ids = MappingProxyType({text: i for text, i in added.items() if text not in _SPACES})
        self._bytes = [*sorted(ranks, key=ranks.__getitem__), *(b" " * _SPACES.get(text, 0) for text in _ADDED)]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a rank file: a line per token, its bytes in base64 and its rank. Raises ValueError naming the line."""
        return cls(_parse_ranks(path.read_bytes()))

    @property
    def vocab_size(self) -> int:
        """158,334 for the published vocabulary; its models have 130 more logits, which are padding."""
        return len(self._bytes)

    @property
    def control_ids(self) -> Mapping[str, int]:
        """pad, unk, mask, eod, eop, im_start and im_end. The space tokens are text."""
        return self._control_ids

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """Nothing: the models were trained without a begin-of-text token."""
        return ()

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; see Tokenizer.encode."""
        parts = _SPACE_RUN.split(text)  # text, run, text, run, ..., text
        ids: list[int] = []
        single = ""
        for plain, run in zip(parts[::2], [*parts[1::2], ""], strict=True):
            for part in _cut_blank_runs(single + plain):
                ids += self._bpe.encode_ordinary(part)
            rest = len(run)
            for width, space_id in self._spaces:
                count, rest = divmod(rest, width)
                ids += [space_id] * count
            single = " " * rest  # belongs to the word behind the run
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """What an id adds to the text; see Tokenizer.token_bytes."""
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._bytes[token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; see Tokenizer.decode."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")


def _cut_blank_runs(text: str) -> Iterator[str]:
    start = 0
    if len(text) > _MAX_BLANK_RUN:
        for run in _BLANK_RUN.finditer(text):
            for end in range(run.start() + _MAX_BLANK_RUN, run.end(), _MAX_BLANK_RUN):
                yield text[start:end]
                start = end
    yield text[start:]


def _parse_ranks(content: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    lines_of_ranks: dict[int, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            encoded, rank_text = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(rank_text)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f"line {number}: expected base64, a space and a rank, found {line[:60]!r}") from error
        if token in ranks:
            raise ValueError(f"line {number}: token {token!r} is already on line {lines_of_ranks[ranks[token]]}")
        if rank in lines_of_ranks:
            raise ValueError(f"line {number}: rank {rank} is already on line {lines_of_ranks[rank]}")
        ranks[token] = rank
        lines_of_ranks[rank] = number
    _require_complete(ranks, lines_of_ranks)
    return ranks


def _require_complete(ranks: Mapping[bytes, int], lines_of_ranks: Mapping[int, int]) -> None:
    outside = next((rank for rank in lines_of_ranks if not 0 <= rank < len(ranks)), None)
    if outside is not None:
        missing = next(rank for rank in range(len(ranks)) if rank not in lines_of_ranks)
        raise ValueError(
            f"line {lines_of_ranks[outside]}: rank {outside} of {len(ranks)} tokens, rank {missing} is missing"
        )
    absent = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if absent is not None:
        raise ValueError(f"byte 0x{absent:02x} is none of the {len(ranks)} tokens; all 256 bytes must be")
