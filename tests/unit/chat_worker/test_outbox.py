"""The outbox: order, leaving callers, and that one bad caller does not silence the others."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import MeshError, Reason
from services.chat_worker import outbox
from services.chat_worker.engine.generation import Finish, Load, Piece
from services.chat_worker.engine.sampler import Sampled
from services.chat_worker.engine.sequence import FinishReason, RequestId
from tests.fakes.outbox import Clock, Harness, RecordingObserver, RecordingReply

LAST = Piece("!", (), finish=Finish(FinishReason.STOP, 1, 1, 0.0, 0.0, 0.0), last=True)
ONE, TWO = RequestId(1), RequestId(2)


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    harness.outbox.start()
    yield harness
    harness.outbox.close()


def said(reply: RecordingReply, count: int) -> list[str]:
    return [reply.said.get(timeout=5) for _ in range(count)]


def test_pieces_arrive_in_order_and_the_last_one_ends_the_reply(harness: Harness) -> None:
    reply = RecordingReply()
    harness.outbox.open(ONE, reply)
    for text in "abc":
        harness.outbox.emit(ONE, Piece(text, ()))
        assert said(reply, 1) == [text]
    harness.outbox.emit(ONE, LAST)
    assert said(reply, 1) == ["!."]


def test_pieces_that_wait_for_a_slow_way_back_travel_as_one() -> None:
    harness, one, two = Harness(), RecordingReply(), RecordingReply()
    harness.outbox.open(ONE, one)
    harness.outbox.open(TWO, two)
    for text in "abc":
        harness.outbox.emit(ONE, Piece(text, ()))
        harness.outbox.emit(TWO, Piece(text.upper(), ()))
    harness.outbox.emit(ONE, LAST)
    harness.outbox.start()
    harness.outbox.close()
    assert said(one, 1) == ["abc!."]
    assert said(two, 1) == ["ABC"]
    assert harness.observer.told.qsize() == 7  # each piece is counted as it was


@dataclass
class Crowd:
    """Forty answers whose first pieces were delivered, so that what follows is not due before the clock moves."""

    clock: Clock
    harness: Harness
    replies: dict[RequestId, RecordingReply]

    def emit(self, text: str) -> None:
        for request_id in self.replies:
            self.harness.outbox.emit(request_id, Piece(text, ()))

    def pass_time(self) -> None:
        self.clock.now_s += 39 * outbox._RESPONSE_S


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    clock = Clock()
    crowd = Crowd(clock, Harness(clock=clock), {RequestId(number): RecordingReply() for number in range(10, 50)})
    for request_id, reply in crowd.replies.items():
        crowd.harness.outbox.open(request_id, reply)
    crowd.emit("a")
    crowd.harness.outbox.start()
    assert all(said(reply, 1) == ["a"] for reply in crowd.replies.values())
    yield crowd
    crowd.harness.outbox.close()


def test_the_next_tokens_of_many_answers_wait_for_each_other(crowd: Crowd) -> None:
    crowd.emit("b")
    crowd.emit("c")
    crowd.pass_time()
    assert all(said(reply, 1) == ["bc"] for reply in crowd.replies.values())


def test_first_tokens_and_failures_wait_for_nobody(crowd: Crowd) -> None:
    crowd.emit("b")
    one, two = RecordingReply(), RecordingReply()
    crowd.harness.outbox.open(ONE, one)
    crowd.harness.outbox.emit(ONE, Piece("x", (), first=True))
    assert said(one, 1) == ["x"]
    crowd.harness.outbox.open(TWO, two)
    crowd.harness.outbox.fail(TWO, MeshError(Reason.QUEUE_FULL, "no room"))
    assert said(two, 1) == ["QUEUE_FULL"]
    crowd.emit("c")
    crowd.pass_time()
    assert all(said(reply, 1) == ["bc"] for reply in crowd.replies.values())


def test_an_answer_in_a_hurry_does_not_overtake_another_of_its_request(crowd: Crowd) -> None:
    reply = RecordingReply()
    crowd.harness.outbox.open(ONE, reply)
    crowd.harness.outbox.emit(ONE, Piece("x", (), index=0, finish=LAST.finish))
    crowd.harness.outbox.emit(ONE, Piece("y", (), index=1, finish=LAST.finish, first=True, last=True))
    assert said(reply, 2) == ["x", "y."]


def test_the_prompts_scores_come_first_although_their_answer_grows_last() -> None:
    harness, reply, prompt = Harness(), RecordingReply(), (Sampled(7),)
    harness.outbox.open(ONE, reply)
    harness.outbox.emit(ONE, Piece("a", (), 0, prompt_scores=prompt))
    harness.outbox.emit(ONE, Piece("b", (), 1, LAST.finish))
    harness.outbox.emit(ONE, Piece("c", (), 0, LAST.finish, last=True))
    harness.outbox.start()
    harness.outbox.close()
    sent = [(piece.index, piece.text, piece.prompt_scores, piece.last) for piece in reply.pieces]
    assert sent == [(0, "a", prompt, False), (1, "b", (), False), (0, "c", (), True)]


def test_a_failure_comes_after_the_pieces_before_it() -> None:
    harness, reply = Harness(), RecordingReply()
    harness.outbox.open(ONE, reply)
    harness.outbox.emit(ONE, Piece("a", ()))
    harness.outbox.fail(ONE, MeshError(Reason.DEADLINE, "late"))
    harness.outbox.start()
    harness.outbox.close()
    assert said(reply, 2) == ["a", "DEADLINE"]


STEP = st.lists(st.tuples(st.integers(0, 2), st.text("ab", max_size=2), st.lists(st.integers(0, 9), max_size=2)))


@given(st.lists(STEP, max_size=6))
def test_however_pieces_are_merged_each_answer_says_the_same(steps: list[list[tuple[int, str, list[int]]]]) -> None:
    """Each step's pieces, of three answers of one request, are queued while the outbox is busy with those before."""
    harness, reply, pump = Harness(), RecordingReply(), RecordingReply()
    pieces = [[Piece(text, tuple(map(Sampled, ids)), index) for index, text, ids in step] for step in steps]
    left = iter(pieces)

    def feed() -> None:
        for piece in (step := next(left, [])):
            harness.outbox.emit(ONE, piece)
        if step:
            harness.outbox.emit(TWO, Piece("", ()))
        else:
            for index in range(3):
                harness.outbox.emit(ONE, Piece("!", (), index, LAST.finish, last=index == 2))
            harness.outbox.fail(TWO, MeshError(Reason.NOT_READY, "the pump rests"))

    pump.after_send = feed
    harness.outbox.open(ONE, reply)
    harness.outbox.open(TWO, pump)
    harness.outbox.emit(TWO, Piece("", ()))
    harness.outbox.start()
    said(pump, 1)
    while pump.said.get(timeout=5) != "NOT_READY":
        pass
    harness.outbox.close()
    fed = pieces[: next((place for place, step in enumerate(pieces) if not step), len(pieces))]
    for index in range(3):
        sent = [piece for piece in reply.pieces if piece.index == index]
        wanted = [piece for step in fed for piece in step if piece.index == index]
        assert "".join(piece.text for piece in sent) == "".join(piece.text for piece in wanted) + "!"
        assert [t for piece in sent for t in piece.tokens] == [t for piece in wanted for t in piece.tokens]
        assert [piece.finish is not None for piece in sent] == [False] * (len(sent) - 1) + [True]
    assert [piece.last for piece in reply.pieces] == [False] * (len(reply.pieces) - 1) + [True]


def test_a_failure_ends_the_reply(harness: Harness) -> None:
    reply = RecordingReply()
    harness.outbox.open(ONE, reply)
    harness.outbox.fail(ONE, MeshError(Reason.INTERNAL, "no"))
    assert said(reply, 1) == ["INTERNAL"]
    assert harness.observer.told.get(timeout=5) is Reason.INTERNAL


def test_a_caller_who_left_is_dropped_and_the_engine_told(harness: Harness) -> None:
    reply = RecordingReply()
    harness.outbox.open(ONE, reply)
    reply.has_left = True
    assert said(reply, 1) == ["dropped"]
    assert harness.aborted.get(timeout=5) == ONE
    assert harness.observer.told.get(timeout=5) == "departure"


def test_an_answer_that_ends_for_nobody_is_counted_once() -> None:
    for gone, told in ((RecordingReply("send"), Reason.INTERNAL), (RecordingReply(), "departure")):
        harness, late = Harness(), RecordingReply()
        gone.has_left = told == "departure"
        harness.outbox.open(ONE, gone)
        harness.outbox.open(TWO, late)
        harness.outbox.start()
        if gone.has_left:
            assert said(gone, 1) == ["dropped"]
        harness.outbox.emit(ONE, LAST)
        harness.outbox.emit(TWO, replace(LAST, text="?"))
        harness.outbox.close()
        assert [harness.observer.told.get(timeout=5) for _ in range(2)] == [told, replace(LAST, text="?")]
        assert harness.observer.told.empty()


def test_an_observer_that_breaks_costs_no_caller_anything() -> None:
    harness, one, two = Harness(RecordingObserver(breaks=True)), RecordingReply(), RecordingReply()
    harness.outbox.open(ONE, one)
    harness.outbox.open(TWO, two)
    harness.outbox.observe(Load(1, 0, 0.0, 0, 0, 0))
    harness.outbox.start()
    harness.outbox.emit(ONE, LAST)
    assert said(one, 1) == ["!."]
    harness.observer.loads.get(timeout=5)
    harness.outbox.emit(TWO, LAST)
    assert said(two, 1) == ["!."]
    harness.outbox.close()


def test_a_piece_for_nobody_makes_the_engine_stop_it(harness: Harness) -> None:
    harness.outbox.emit(TWO, Piece("late", ()))
    assert harness.aborted.get(timeout=5) == TWO


def test_a_caller_who_cannot_be_answered_does_not_silence_the_others(harness: Harness) -> None:
    broken, fine = RecordingReply("send"), RecordingReply()
    harness.outbox.open(ONE, broken)
    harness.outbox.open(TWO, fine)
    harness.outbox.emit(ONE, Piece("x", ()))
    harness.outbox.emit(TWO, LAST)
    assert said(broken, 1) == ["INTERNAL"]
    assert said(fine, 1) == ["!."]
    assert harness.aborted.get(timeout=5) == ONE


@pytest.mark.parametrize("breaks", [("send", "fail"), ("is_cancelled",), ("is_cancelled", "fail"), ("drop", "fail")])
def test_a_caller_who_cannot_even_be_refused_does_not_silence_the_others(
    harness: Harness, breaks: tuple[str, ...]
) -> None:
    broken, fine = RecordingReply(*breaks), RecordingReply()
    harness.outbox.open(ONE, broken)
    harness.outbox.open(TWO, fine)
    broken.has_left = True
    if "send" in breaks:
        harness.outbox.emit(ONE, Piece("x", ()))
    assert harness.aborted.get(timeout=5) == ONE
    harness.outbox.emit(TWO, LAST)
    assert said(fine, 1) == ["!."]


def test_only_the_newest_load_is_published(harness: Harness) -> None:
    for generated in range(100):
        harness.outbox.observe(Load(0, 0, 0.0, 0, generated, 0))
    published: list[int] = []
    deadline = time.monotonic() + 5
    while (not published or published[-1] != 99) and time.monotonic() < deadline:
        published.append(harness.observer.loads.get(timeout=5).generation_tokens)
    assert published[-1] == 99
    assert len(published) < 100
