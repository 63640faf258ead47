"""The outbox: order, leaving callers, and that one bad caller does not silence the others."""

import queue
import time
from collections.abc import Iterator

import pytest

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.generation import Finish, Load, Piece
from services.chat_worker.engine.sequence import FinishReason, RequestId
from services.chat_worker.outbox import Outbox

LAST = Piece("!", (), finish=Finish(FinishReason.STOP, 1, 1, 0.0, 0.0, 0.0), last=True)
ONE, TWO = RequestId(1), RequestId(2)


class RecordingReply:
    def __init__(self, *breaks: str) -> None:
        self.said: queue.Queue[str] = queue.Queue()
        self.has_left = False
        self._breaks = breaks

    def send(self, piece: Piece, *, last: bool) -> None:
        self._try("send")
        self.said.put(piece.text + ("." if last else ""))

    def fail(self, error: MeshError) -> None:
        self._try("fail")
        self.said.put(error.reason)

    def drop(self) -> None:
        self._try("drop")
        self.said.put("dropped")

    def is_cancelled(self) -> bool:
        self._try("is_cancelled")
        return self.has_left

    def _try(self, action: str) -> None:
        if action in self._breaks:
            raise RuntimeError(f"the pipe broke in {action}")


class Harness:
    def __init__(self) -> None:
        self.aborted: queue.Queue[RequestId] = queue.Queue()
        self.loads: queue.Queue[Load] = queue.Queue()
        self.outbox = Outbox(abort=self.aborted.put, publish=self.loads.put)


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
    harness.outbox.emit(ONE, LAST)
    assert said(reply, 4) == ["a", "b", "c", "!."]


def test_a_failure_ends_the_reply(harness: Harness) -> None:
    reply = RecordingReply()
    harness.outbox.open(ONE, reply)
    harness.outbox.fail(ONE, MeshError(Reason.INTERNAL, "no"))
    assert said(reply, 1) == ["INTERNAL"]


def test_a_caller_who_left_is_dropped_and_the_engine_told(harness: Harness) -> None:
    reply = RecordingReply()
    harness.outbox.open(ONE, reply)
    reply.has_left = True
    assert said(reply, 1) == ["dropped"]
    assert harness.aborted.get(timeout=5) == ONE


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
        published.append(harness.loads.get(timeout=5).generation_tokens)
    assert published[-1] == 99
    assert len(published) < 100
