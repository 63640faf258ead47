"""Carries the engine's results to the callers on a thread of its own and notices callers who left; knows no Triton."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.loop import Load, Piece
from services.chat_worker.engine.sequence import SequenceId

log = logging.getLogger(__name__)

_POLL_S = 0.05  # how late a caller who left is noticed, and how old a published load may be


class Reply(Protocol):
    """The way back to one caller. Exactly one of: send with last, fail, or drop ends it."""

    def send(self, piece: Piece, *, last: bool) -> None:
        """Hand over a piece."""
        ...

    def fail(self, error: MeshError) -> None:
        """Hand over the failure that ends the answer."""
        ...

    def drop(self) -> None:
        """End without an answer: the caller has left."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the caller has left."""
        ...


@dataclass(frozen=True, slots=True)
class _Open:
    sequence_id: SequenceId
    reply: Reply


@dataclass(frozen=True, slots=True)
class _Emit:
    sequence_id: SequenceId
    piece: Piece


@dataclass(frozen=True, slots=True)
class _Fail:
    sequence_id: SequenceId
    error: MeshError


class Outbox:
    """The engine's sink: a slow caller costs this thread, never the engine.

    abort: tells the engine that nobody waits for a sequence any more. publish: takes the engine's load, at most every
    50 ms.
    """

    def __init__(self, *, abort: Callable[[SequenceId], None], publish: Callable[[Load], None]) -> None:
        self._abort = abort
        self._publish = publish
        self._messages: queue.SimpleQueue[_Open | _Emit | _Fail | None] = queue.SimpleQueue()
        self._replies: dict[SequenceId, Reply] = {}
        self._load: Load | None = None  # the newest; only the engine's thread sets it
        self._published: Load | None = None
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Deliver what is queued, then stop."""
        self._messages.put(None)
        self._thread.join()

    def open(self, sequence_id: SequenceId, reply: Reply) -> None:
        """Register the way back before anything about the sequence can be said."""
        self._messages.put(_Open(sequence_id, reply))

    def emit(self, sequence_id: SequenceId, piece: Piece) -> None:
        """Queue a piece for its caller."""
        self._messages.put(_Emit(sequence_id, piece))

    def fail(self, sequence_id: SequenceId, error: MeshError) -> None:
        """Queue a failure for its caller."""
        self._messages.put(_Fail(sequence_id, error))

    def observe(self, load: Load) -> None:
        """Remember the load for the next publication."""
        self._load = load

    def _run(self) -> None:
        polled_s = time.monotonic()
        while True:
            try:
                message = self._messages.get(timeout=_POLL_S)
            except queue.Empty:
                pass
            else:
                if message is None:
                    return
                self._guard(message.sequence_id, partial(self._deliver, message))
            if time.monotonic() - polled_s >= _POLL_S:
                self._poll()
                polled_s = time.monotonic()

    def _guard(self, sequence_id: SequenceId, act: Callable[[], None]) -> None:
        """Do something for a caller; one who cannot be answered must not silence the others."""
        try:
            act()
        except Exception:  # boundary: this thread answers everybody
            log.exception("sequence %s could not be answered", sequence_id)
            self._abort(sequence_id)
            if (reply := self._replies.pop(sequence_id, None)) is not None:
                error = MeshError(Reason.INTERNAL, "the answer could not be sent")
                self._guard(sequence_id, partial(reply.fail, error))

    def _deliver(self, message: _Open | _Emit | _Fail) -> None:
        match message:
            case _Open(sequence_id, reply):
                self._replies[sequence_id] = reply
            case _Emit(sequence_id, piece):
                if (reply := self._replies.get(sequence_id)) is None:
                    self._abort(sequence_id)  # its caller left before the engine had heard of it
                    return
                last = piece.finish is not None
                reply.send(piece, last=last)
                if last:
                    del self._replies[sequence_id]
            case _Fail(sequence_id, error):
                if (reply := self._replies.pop(sequence_id, None)) is not None:
                    reply.fail(error)

    def _poll(self) -> None:
        for sequence_id, reply in list(self._replies.items()):
            self._guard(sequence_id, partial(self._drop_if_left, sequence_id, reply))
        load = self._load
        if load is not None and load is not self._published:
            self._publish(load)
            self._published = load

    def _drop_if_left(self, sequence_id: SequenceId, reply: Reply) -> None:
        if reply.is_cancelled():
            del self._replies[sequence_id]
            self._abort(sequence_id)
            reply.drop()
