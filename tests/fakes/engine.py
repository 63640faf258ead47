"""Stand-ins at the engine's own seams: a runner that computes no model and a sink that remembers."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meshkit.errors import MeshError
from services.chat_worker.engine.loop import Load, Piece
from services.chat_worker.engine.scheduler import Chunk
from services.chat_worker.engine.sequence import SequenceId

VOCAB = 256


def next_token(token_ids: list[int]) -> int:
    """The letter that the fake model answers after a text: any function of all of it will do."""
    return ord("a") + hashlib.sha256(bytes(token_ids)).digest()[0] % 26


class FakeRunner:
    """Checks what the engine promises a runner, then makes next_token the best logit of each sampling chunk."""

    def __init__(self, *, fails_on: int | None = None) -> None:
        self.steps: list[list[tuple[SequenceId, int]]] = []
        self._fails_on = fails_on
        self._seen: defaultdict[SequenceId, int] = defaultdict(int)

    def run(self, chunks: list[Chunk]) -> Tensor:
        self.steps.append([(chunk.sequence.id, chunk.num_tokens) for chunk in chunks])
        if any(chunk.sequence.token_ids[0] == self._fails_on for chunk in chunks):
            raise RuntimeError("the model broke")
        rows: list[Tensor] = []
        for chunk in chunks:
            assert chunk.sequence.num_computed in (0, self._seen[chunk.sequence.id]), "a chunk skips or repeats tokens"
            self._seen[chunk.sequence.id] = chunk.sequence.num_computed + chunk.num_tokens
            if chunk.samples:
                row = torch.zeros(VOCAB + 8)
                row[VOCAB:] = 99.0  # padding rows of the vocabulary must never win
                row[next_token(chunk.sequence.token_ids)] = 9.0
                rows.append(row)
        return torch.stack(rows) if rows else torch.empty(0, VOCAB + 8)


@dataclass
class RecordingSink:
    """Keeps everything the engine says, per sequence."""

    pieces: defaultdict[SequenceId, list[Piece]] = field(default_factory=lambda: defaultdict(list))
    errors: dict[SequenceId, MeshError] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)

    def emit(self, sequence_id: SequenceId, piece: Piece) -> None:
        assert sequence_id not in self.errors and not self.is_finished(sequence_id), "a piece after the end"
        self.pieces[sequence_id].append(piece)

    def fail(self, sequence_id: SequenceId, error: MeshError) -> None:
        assert sequence_id not in self.errors and not self.is_finished(sequence_id), "a failure after the end"
        self.errors[sequence_id] = error

    def observe(self, load: Load) -> None:
        self.loads.append(load)

    def is_finished(self, sequence_id: SequenceId) -> bool:
        pieces = self.pieces.get(sequence_id)
        return bool(pieces) and pieces[-1].finish is not None

    def tokens(self, sequence_id: SequenceId) -> list[int]:
        return [token.token_id for piece in self.pieces[sequence_id] for token in piece.tokens]


class ByteTokenizer:
    """One token per byte; ids 256 and up are control tokens."""

    def __init__(self, *control: str) -> None:
        self.control_ids = {text: 256 + index for index, text in enumerate(control)}
        self.vocab_size = 256 + len(control)
        self.prefix_ids: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.token_bytes(token_id) for token_id in ids).decode(errors="replace")
