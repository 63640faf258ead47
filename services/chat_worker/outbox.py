"""Carries the engine's results to the callers on a thread of its own and notices callers who left; knows no Triton."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.generation import Load, Piece
from services.chat_worker.engine.sequence import RequestId

log = logging.getLogger(__name__)

_PUBLISH_S = 0.05  # how old a published load may be
_LOOK_S = 0.2  # how late a caller who left is noticed; each look is a message to Triton
_LOOK_AGAIN_S = 0.05  # after one who left: callers leave together

# How long others wait for each response. It costs the worker, Triton and those behind them CPU that the engine needs:
# with many streams several tokens travel at a time; alone, every token does.
_RESPONSE_S = 0.004


class Reply(Protocol):
    """The way back to one caller. Exactly one of these ends it: send of a piece that is the last, fail, drop."""

    def send(self, piece: Piece) -> None:
        """Hand over a piece."""
        ...

    def fail(self, error: MeshError) -> None:
        """Hand over the failure that ends the request."""
        ...

    def drop(self) -> None:
        """End without an answer: the caller has left."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the caller has left."""
        ...


class Observer(Protocol):
    """Is told, on the outbox's thread, what became of requests."""

    def count_piece(self, piece: Piece) -> None:
        """A piece, as the engine emitted it, was delivered."""
        ...

    def count_failure(self, error: MeshError) -> None:
        """A request failed."""
        ...

    def count_departure(self) -> None:
        """A caller left before the end."""
        ...

    def publish(self, load: Load) -> None:
        """Take the engine's newest load, at most every 50 ms."""
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
    """The engine's sink: a slow way back costs this thread, never the engine.

    What is delivered together delays what follows by _RESPONSE_S for each response but one; pieces of one answer that
    meet meanwhile travel as one. An answer's first piece and a failure wait for nobody. abort: tells the engine that
    nobody waits for a request any more.
    """

    def __init__(
        self, *, abort: Callable[[RequestId], None], observer: Observer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._abort = abort
        self._observer = observer
        self._clock = clock
        self._messages: queue.SimpleQueue[_Open | _Emit | _Fail | None] = queue.SimpleQueue()
        self._hurry = threading.Event()  # something is queued that waits for nobody
        self._replies: dict[RequestId, Reply] = {}
        # What is to be delivered of each answer, and when; the answer that grew last is last.
        self._pieces: dict[tuple[RequestId, int | None], list[Piece]] = {}
        self._due_s = 0.0
        self._load: Load | None = None  # the newest; only the engine's thread sets it
        self._published: Load | None = None
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Deliver what is queued, then stop."""
        self._messages.put(None)
        self._hurry.set()
        self._thread.join()

    def open(self, request_id: RequestId, reply: Reply) -> None:
        """Register the way back before anything about the request can be said."""
        self._messages.put(_Open(request_id, reply))

    def emit(self, request_id: RequestId, piece: Piece) -> None:
        """Queue a piece for its caller."""
        self._messages.put(_Emit(request_id, piece))
        if piece.first:
            self._hurry.set()

    def fail(self, request_id: RequestId, error: MeshError) -> None:
        """Queue a failure for its caller."""
        self._messages.put(_Fail(request_id, error))
        self._hurry.set()

    def observe(self, load: Load) -> None:
        """Remember the load for the next publication."""
        self._load = load

    def _run(self) -> None:
        published_s = look_s = self._clock()
        while self._turn():
            now_s = self._clock()
            if now_s - published_s >= _PUBLISH_S:
                self._publish()
                published_s = now_s
            if now_s >= look_s:
                look_s = now_s + (_LOOK_AGAIN_S if self._look_for_departures() else _LOOK_S)

    def _turn(self) -> bool:
        """Take what is queued and deliver what is due; False if the outbox is to stop."""
        messages = self._wait()
        for message in messages:
            match message:
                case _Open(request_id, reply):
                    self._replies[request_id] = reply
                case _Emit(request_id, piece):
                    # scores of the prompt, which all answers share, stay before all of them
                    key = request_id, None if piece.prompt_scores else piece.index
                    self._pieces[key] = [*self._pieces.pop(key, []), piece]
                case _Fail(request_id, error):
                    self._deliver({request_id})
                    self._guard(request_id, partial(self._refuse, request_id, error))
                case None:
                    break
        is_due = None in messages or self._clock() >= self._due_s
        self._deliver({request_id for (request_id, _), parts in self._pieces.items() if is_due or parts[0].first})
        return None not in messages

    def _wait(self) -> list[_Open | _Emit | _Fail | None]:
        """All messages there are, once one has come; with pieces at hand, once those are due or something hurries."""
        messages: list[_Open | _Emit | _Fail | None] = []
        if self._pieces:
            self._hurry.wait(min(_PUBLISH_S, max(0.0, self._due_s - self._clock())))
            self._hurry.clear()
        else:
            with suppress(queue.Empty):
                messages.append(self._messages.get(timeout=_PUBLISH_S))
        return messages + [self._messages.get_nowait() for _ in range(self._messages.qsize())]

    def _deliver(self, request_ids: Set[RequestId]) -> None:
        """Send all that is at hand of these requests."""
        pieces = {key: parts for key, parts in self._pieces.items() if key[0] in request_ids}
        if pieces:
            self._due_s = max(self._due_s, self._clock()) + (len(pieces) - 1) * _RESPONSE_S
        sent: list[Piece] = []
        for key, parts in pieces.items():
            del self._pieces[key]
            self._guard(key[0], partial(self._send, key[0], parts, sent))
        for piece in sent:
            _note(partial(self._observer.count_piece, piece))

    def _guard(self, request_id: RequestId, act: Callable[[], None]) -> None:
        """Do something for a caller; one who cannot be answered must not silence the others."""
        try:
            act()
        except Exception:  # boundary: this thread answers everybody
            log.exception("request %s could not be answered", request_id)
            self._abort(request_id)
            error = MeshError(Reason.INTERNAL, "the answer could not be sent")
            if request_id in self._replies:
                self._guard(request_id, partial(self._refuse, request_id, error))

    def _send(self, request_id: RequestId, parts: list[Piece], sent: list[Piece]) -> None:
        if (reply := self._replies.get(request_id)) is None:
            self._abort(request_id)  # its caller left before the engine had heard of it
            return
        reply.send(Piece.merge(parts) if len(parts) > 1 else parts[0])
        sent += parts
        if parts[-1].last:
            del self._replies[request_id]

    def _refuse(self, request_id: RequestId, error: MeshError) -> None:
        if (reply := self._replies.pop(request_id, None)) is not None:
            _note(partial(self._observer.count_failure, error))
            reply.fail(error)

    def _publish(self) -> None:
        load = self._load
        if load is not None and load is not self._published:
            _note(partial(self._observer.publish, load))
            self._published = load

    def _look_for_departures(self) -> bool:
        """Drop the requests of callers who left; whether there were any."""
        num_before = len(self._replies)
        for request_id, reply in list(self._replies.items()):
            self._guard(request_id, partial(self._drop_if_left, request_id, reply))
        return len(self._replies) < num_before

    def _drop_if_left(self, request_id: RequestId, reply: Reply) -> None:
        if reply.is_cancelled():
            del self._replies[request_id]
            self._abort(request_id)
            _note(self._observer.count_departure)
            reply.drop()


def _note(act: Callable[[], None]) -> None:
    """Tell the observer, whose troubles are no caller's."""
    try:
        act()
    except Exception:  # boundary: the outbox's thread answers everybody
        log.exception("an observation was lost")
