"""An outbox with callers and an observer that record what they are told, and may break."""

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

from meshkit.errors import MeshError
from services.chat_worker.engine.generation import Load, Piece
from services.chat_worker.engine.sequence import RequestId
from services.chat_worker.outbox import Outbox


class RecordingReply:
    def __init__(self, *breaks: str) -> None:
        self.said: queue.Queue[str] = queue.Queue()
        self.pieces: list[Piece] = []
        self.has_left = False
        self.after_send: Callable[[], None] = lambda: None
        self._breaks = breaks

    def send(self, piece: Piece) -> None:
        self._try("send")
        self.pieces.append(piece)
        self.said.put(piece.text + ("." if piece.last else ""))
        self.after_send()

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


class RecordingObserver:
    """Notes what it is told, and then breaks if it is to."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.told: queue.Queue[object] = queue.Queue()
        self.loads: queue.Queue[Load] = queue.Queue()
        self._breaks = breaks

    def count_piece(self, piece: Piece) -> None:
        self._note(piece)

    def count_failure(self, error: MeshError) -> None:
        self._note(error.reason)

    def count_departure(self) -> None:
        self._note("departure")

    def publish(self, load: Load) -> None:
        self.loads.put(load)
        self._note(load)

    def _note(self, what: object) -> None:
        self.told.put(what)
        if self._breaks:
            raise RuntimeError("nobody listens")


@dataclass
class Clock:
    now_s: float = 1.0

    def __call__(self) -> float:
        return self.now_s


class Harness:
    def __init__(
        self, observer: RecordingObserver | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.aborted: queue.Queue[RequestId] = queue.Queue()
        self.observer = observer or RecordingObserver()
        self.outbox = Outbox(abort=self.aborted.put, observer=self.observer, clock=clock)
