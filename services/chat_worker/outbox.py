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
from services.chat_worker.engine.generation import Load, Piece
from services.chat_worker.engine.sequence import RequestId

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
    request_id: RequestId
    reply: Reply


@dataclass(frozen=True, slots=True)
class _Emit:
    request_id: RequestId
    piece: Piece


@dataclass(frozen=True, slots=True)
class _Fail:
    request_id: RequestId
    error: MeshError


class Outbox:
    """The engine's sink: a slow caller costs this thread, never the engine.

    abort: tells the engine that nobody waits for a request any more. publish: takes the engine's load, at most every
    50 ms.
    """

    def __init__(self, *, abort: Callable[[RequestId], None], publish: Callable[[Load], None]) -> None:
        self._abort = abort
        self._publish = publish
        self._messages: queue.SimpleQueue[_Open | _Emit | _Fail | None] = queue.SimpleQueue()
        self._replies: dict[RequestId, Reply] = {}
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

    def open(self, request_id: RequestId, reply: Reply) -> None:
        """Register the way back before anything about the request can be said."""
        self._messages.put(_Open(request_id, reply))

    def emit(self, request_id: RequestId, piece: Piece) -> None:
        """Queue a piece for its caller."""
        self._messages.put(_Emit(request_id, piece))

    def fail(self, request_id: RequestId, error: MeshError) -> None:
        """Queue a failure for its caller."""
        self._messages.put(_Fail(request_id, error))

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
                self._guard(message.request_id, partial(self._deliver, message))
            if time.monotonic() - polled_s >= _POLL_S:
                self._poll()
                polled_s = time.monotonic()

    def _guard(self, request_id: RequestId, act: Callable[[], None]) -> None:
        """Do something for a caller; one who cannot be answered must not silence the others."""
        try:
            act()
        except Exception:  # boundary: this thread answers everybody
            log.exception("request %s could not be answered", request_id)
            self._abort(request_id)
            if (reply := self._replies.pop(request_id, None)) is not None:
                error = MeshError(Reason.INTERNAL, "the answer could not be sent")
                self._guard(request_id, partial(reply.fail, error))

    def _deliver(self, message: _Open | _Emit | _Fail) -> None:
        match message:
            case _Open(request_id, reply):
                self._replies[request_id] = reply
            case _Emit(request_id, piece):
                if (reply := self._replies.get(request_id)) is None:
                    self._abort(request_id)  # its caller left before the engine had heard of it
                    return
                reply.send(piece, last=piece.last)
                if piece.last:
                    del self._replies[request_id]
            case _Fail(request_id, error):
                if (reply := self._replies.pop(request_id, None)) is not None:
                    reply.fail(error)

    def _poll(self) -> None:
        for request_id, reply in list(self._replies.items()):
            self._guard(request_id, partial(self._drop_if_left, request_id, reply))
        load = self._load
        if load is not None and load is not self._published:
            self._publish(load)
            self._published = load

    def _drop_if_left(self, request_id: RequestId, reply: Reply) -> None:
        if reply.is_cancelled():
            del self._replies[request_id]
            self._abort(request_id)
            reply.drop()
