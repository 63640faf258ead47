"""What is told about an answer: its times, and pieces that travel as one."""

from collections.abc import Iterator
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from services.chat_worker.detok import Detokenizer
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.engine import Engine
from services.chat_worker.engine.generation import Finish, Generation, Piece, PromptChunk
from services.chat_worker.engine.sampler import Sampled
from services.chat_worker.engine.scheduler import Scheduler
from services.chat_worker.engine.sequence import FinishReason, RequestId, Sampling, Sequence, Stop
from tests.fakes.engine import VOCAB, ByteTokenizer, FakeRunner, RecordingSink

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
