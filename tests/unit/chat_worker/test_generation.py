"""What is told about an answer: its times, and pieces that travel as one."""

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.chat_worker.detok import Detokenizer
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.engine import Engine
from services.chat_worker.engine.generation import Finish, Generation, Piece, PromptChunk
from services.chat_worker.engine.sampler import Sampled
from services.chat_worker.engine.scheduler import Scheduler
from services.chat_worker.engine.sequence import FinishReason, RequestId, Sampling, Sequence, Stop
from services.chat_worker.engine.speculate import Speculation
from tests.fakes.engine import VOCAB, ByteTokenizer, FakeRunner, RecordingSink
from tests.fakes.stepped_engine import SteppedEngine

FINISH = Finish(FinishReason.STOP, 1, 1, 0.0, 0.0, 0.0)
PIECES = st.lists(st.tuples(st.text(max_size=3), st.lists(st.integers(0, 255), max_size=3)), min_size=1)


def steps_of_one_second() -> Iterator[float]:
    """What the engine's clock says: it is read once on arrival, then at both ends of a step."""
    return (float(reading) for reading in count())


def test_the_times_of_an_answer_name_its_queue_its_prompt_chunks_and_the_gaps_between_tokens() -> None:
    clock = steps_of_one_second()
    blocks, sink = BlockPool(16, 4), RecordingSink()
    scheduler = Scheduler(blocks, max_step_tokens=4, max_running=2)
    engine = Engine(
        scheduler,
        blocks,
        FakeRunner(),
        sink,
        vocab_size=VOCAB,
        clock=lambda: next(clock),  # type: ignore[arg-type]
    )
    sequence = Sequence(RequestId(1), list(b"prompt"), 6, Sampling(0, 1, 0, seed=0), Stop(3, frozenset()))
    engine.add([Generation(sequence, Detokenizer(ByteTokenizer(), ()), arrived_s=engine.clock())])
    while engine.has_work:
        engine.step()
    pieces = sink.pieces[RequestId(1)]
    assert [(piece.gap_s, piece.first) for piece in pieces] == [(4.0, True), (2.0, False), (2.0, False)]
    finish = pieces[-1].finish
    assert finish is not None
    assert (finish.arrived_s, finish.queue_s, finish.prefill_s, finish.decode_s) == (0.0, 1.0, 3.0, 4.0)
    assert finish.prompt_chunks == (PromptChunk(1.0, 2.0, 4), PromptChunk(3.0, 4.0, 2))


def taken(stop: Stop, gained: bytes) -> Piece:
    """What an answer tells of tokens that one step gave it together."""
    sequence = Sequence(RequestId(1), list(b"?" + gained), 1, Sampling(0, 1, 0, seed=0), stop)
    generation = Generation(sequence, Detokenizer(ByteTokenizer(), stop.texts))
    generation.begin(0.0)
    return generation.take([Sampled(token_id) for token_id in gained], 1.0)


@pytest.mark.parametrize(
    ("stop", "text", "tokens", "reason", "completion_tokens"),
    [
        (Stop(9, frozenset()), "abcd", b"abcd", None, None),
        (Stop(9, frozenset(b"c")), "ab", b"ab", FinishReason.STOP, 3),
        (Stop(9, frozenset(), ("bc",)), "a", b"abc", FinishReason.STOP, 3),
        (Stop(2, frozenset()), "ab", b"ab", FinishReason.LENGTH, 2),
        (Stop(4, frozenset(b"d")), "abc", b"abc", FinishReason.STOP, 4),
    ],
)
def test_what_follows_the_end_of_an_answer_in_the_same_step_is_dropped(
    stop: Stop, text: str, tokens: bytes, reason: FinishReason | None, completion_tokens: int | None
) -> None:
    piece = taken(stop, b"abcd")
    assert (piece.text, bytes(token.token_id for token in piece.tokens)) == (text, tokens)
    assert piece.finish is None if reason is None else piece.finish is not None
    if piece.finish is not None:
        assert (piece.finish.reason, piece.finish.completion_tokens) == (reason, completion_tokens)


class OneLetter:
    """A grammar of one letter, which remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_finished = False

    def prepare(self) -> None:
        self.calls.append("prepare")

    def mask(self) -> Tensor | None:
        self.calls.append("mask")
        mask = torch.zeros(VOCAB // 32, dtype=torch.int32)
        mask[ord("q") // 32] = 1 << ord("q") % 32
        return mask

    def accept(self, token_id: int) -> None:
        self.calls.append(f"accept {chr(token_id)}")
        self.is_finished = True


def test_a_grammar_is_prepared_before_the_step_that_needs_it_and_its_end_is_the_answers() -> None:
    engine, grammar = SteppedEngine(max_step_tokens=4), OneLetter()
    sequence = Sequence(RequestId(1), list(b"letter"), 6, Sampling(0, 1, 0, seed=0), Stop(9, frozenset()))
    answer = Generation(sequence, Detokenizer(ByteTokenizer(), ()), grammar, Speculation())
    engine.engine.add([answer])
    engine.finish()
    (piece,) = engine.sink.pieces[RequestId(1)]
    assert piece.text == "q" and piece.finish is not None
    assert piece.finish.reason is FinishReason.STOP
    assert grammar.calls == ["prepare", "mask", "accept q"]


@given(PIECES, st.booleans())
def test_a_merged_piece_says_what_its_parts_say(parts: list[tuple[str, list[int]]], ends: bool) -> None:
    pieces = [Piece(text, tuple(Sampled(token_id) for token_id in token_ids), 2) for text, token_ids in parts]
    pieces[0] = Piece(pieces[0].text, pieces[0].tokens, 2, prompt_scores=(None, Sampled(7)))
    if ends:
        pieces.append(Piece("end", (), 2, FINISH, last=True))
    merged = Piece.merge(pieces)
    assert merged.text == "".join(piece.text for piece in pieces)
    assert list(merged.tokens) == [token for piece in pieces for token in piece.tokens]
    assert (merged.index, merged.finish, merged.last) == (2, FINISH if ends else None, ends)
    assert merged.prompt_scores == (None, Sampled(7))
