"""Stand-ins at the engine's own seams: a runner that computes no model and a sink that remembers."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meshkit.errors import MeshError
from services.chat_worker.engine.generation import Load, Piece
from services.chat_worker.engine.scheduler import Plan
from services.chat_worker.engine.sequence import RequestId, Sequence

VOCAB = 256


REPEATS = ord("~")  # as the first token: the answer soon repeats itself, so that guesses hold


def next_token(token_ids: list[int]) -> int:
    """The letter that the fake model answers after a text: any function of all of it will do."""
    if token_ids[0] == REPEATS:
        return ord("a") + (token_ids[-1] + 7 * token_ids[max(0, len(token_ids) - 2)]) % 3
    return ord("a") + hashlib.sha256(bytes(token_ids)).digest()[0] % 26


class FakeRunner:
    """Keeps the token that each slot of the cache holds, and answers from what a sequence's blocks hold.

    So a block that is shared, copied or given away wrongly changes answers.
    """

    def __init__(self, *, block_len: int = 4, fails_on: int | None = None) -> None:
        self.steps: list[list[tuple[RequestId, int]]] = []  # whose tokens were computed, and how many, guesses too
        self._block_len = block_len
        self._fails_on = fails_on
        self._slots: dict[tuple[int, int], int] = {}

    def run(self, plan: Plan) -> Tensor:
        self.steps.append([(c.sequence.request_id, c.num_tokens + len(c.draft)) for c in plan.chunks])
        if any(chunk.sequence.token_ids[0] == self._fails_on for chunk in plan.chunks):
            raise RuntimeError("the model broke")
        for source, target in plan.copies:
            for offset in range(self._block_len):
                if (source, offset) in self._slots:
                    self._slots[target, offset] = self._slots[source, offset]
        rows: list[Tensor] = []
        for chunk in plan.chunks:
            start = chunk.sequence.num_computed
            token_ids = [*chunk.sequence.token_ids[start : start + chunk.num_tokens], *chunk.draft]
            for position, token_id in enumerate(token_ids, start):
                self._slots[self._slot(chunk.sequence, position)] = token_id
            end = start + len(token_ids)
            rows += [self._logits(chunk.sequence, length) for length in range(end - chunk.num_logits + 1, end + 1)]
        return torch.stack(rows) if rows else torch.empty(0, VOCAB + 8)

    def _logits(self, sequence: Sequence, length: int) -> Tensor:
        row = torch.zeros(VOCAB + 8)
        row[VOCAB:] = 99.0  # padding rows of the vocabulary must never win
        row[next_token([self._slots[self._slot(sequence, position)] for position in range(length)])] = 9.0
        return row

    def _slot(self, sequence: Sequence, position: int) -> tuple[int, int]:
        return sequence.block_ids[position // self._block_len], position % self._block_len


@dataclass
class RecordingSink:
    """Keeps everything the engine says, per request."""

    pieces: defaultdict[RequestId, list[Piece]] = field(default_factory=lambda: defaultdict(list))
    errors: dict[RequestId, MeshError] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)

    def emit(self, request_id: RequestId, piece: Piece) -> None:
        assert request_id not in self.errors and not self.is_finished(request_id), "a piece after the end"
        ended = {earlier.index for earlier in self.pieces[request_id] if earlier.finish}
        assert piece.index not in ended, "a piece after the answer's end"
        self.pieces[request_id].append(piece)

    def fail(self, request_id: RequestId, error: MeshError) -> None:
        assert request_id not in self.errors and not self.is_finished(request_id), "a failure after the end"
        self.errors[request_id] = error

    def observe(self, load: Load) -> None:
        self.loads.append(load)

    def is_finished(self, request_id: RequestId) -> bool:
        pieces = self.pieces.get(request_id)
        return bool(pieces) and pieces[-1].last

    def tokens(self, request_id: RequestId, index: int = 0) -> list[int]:
        pieces = self.pieces[request_id]
        return [token.token_id for piece in pieces if piece.index == index for token in piece.tokens]


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
