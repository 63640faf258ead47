"""Answers requests and keeps the books of them on a thread of its own, so that neither holds up a batch."""

from __future__ import annotations  # Triton's module has no types to import at run time

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic

from meshkit import telemetry
from meshkit.errors import MeshError, Reason
from workerkit.batch_metrics import BatchMetrics
from workerkit.batcher import Batch, Load, Times
from workerkit.prepared import Prepared, Result, SomeItem
from workerkit.traces import Part, RequestTrace
from workerkit.triton import FINAL, response, send_error

if TYPE_CHECKING:
    from triton_python_backend_utils import ResponseSender

log = logging.getLogger(__name__)

_FEW_TOKENS: Final = 256
_SHORT_STAY_S: Final = 0.1
_TELL_S: Final = 0.5


class Replies:
    """The thread, the metrics only it touches, and the places that requests hold from the door to their answer."""

    def __init__(self, metrics: BatchMetrics, max_requests: int) -> None:
        self.metrics = metrics
        self._max_requests = max_requests
        self._num_accepted, self._num_ended = 0, 0  # the one is Triton's thread's to change, the other this one's
        self._acts: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._act_until_closed, name="reply", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Do what is queued, then stop."""
        self._acts.put(None)
        self._thread.join()

    def later(self, act: Callable[[], None]) -> None:
        """Have something done on the thread; what goes wrong there is nobody else's trouble."""
        self._acts.put(act)

    def take_place(self) -> bool:
        """Whether there was room for one more request."""
        if self.num_in_progress >= self._max_requests:
            self.later(lambda: self.metrics.note_failure(Reason.QUEUE_FULL))
            return False
        self._num_accepted += 1
        return True

    def give_place(self) -> None:
        """A request has ended."""
        self._num_ended += 1

    @property
    def num_in_progress(self) -> int:
        """Requests that hold a place."""
        return self._num_accepted - self._num_ended

    def observe_batch(self, batch: Batch) -> None:
        """See Observer."""
        self.later(lambda: self.metrics.note_batch(batch))

    def observe_load(self, load: Load) -> None:
        """See Observer."""
        self.later(lambda: self.metrics.note_load(load))

    def _act_until_closed(self) -> None:
        """Do one thing after the other; now and then, and at the end, show what they noted."""
        told_s = time.monotonic()
        while True:
            with suppress(queue.Empty):
                if (act := self._acts.get(timeout=_TELL_S)) is None:
                    break
                _guarded(act)
            if time.monotonic() - told_s >= _TELL_S:
                _guarded(self._tell)
                told_s = time.monotonic()
        _guarded(self._tell)

    def _tell(self) -> None:
        self.metrics.tell(num_in_progress=self.num_in_progress)


class TritonReply(Generic[SomeItem, Result]):
    """The way back to one caller, who holds a place. prepared: known once the request was tokenised."""

    def __init__(self, replies: Replies, sender: ResponseSender, trace: RequestTrace) -> None:
        self._replies = replies
        self._sender = sender
        self._trace = trace
        self.prepared: Prepared[SomeItem, Result] | None = None

    def is_cancelled(self) -> bool:
        """See Reply. Asking is a message to Triton and back, dearer than computing a short text of one just come."""
        assert self.prepared is not None, "it was tokenised before it was queued"
        worth_asking = self.prepared.num_tokens > _FEW_TOKENS or self._trace.age_s() > _SHORT_STAY_S
        return worth_asking and bool(self._sender.is_cancelled())

    def finish(self, results: Sequence[Result], times: Times) -> None:
        """See Reply."""
        self._replies.later(lambda: self._answer(results, times))

    def fail(self, error: MeshError) -> None:
        """See Reply."""
        self._replies.later(lambda: self._refuse(error))

    def drop(self) -> None:
        """See Reply; Triton wants an answer all the same."""
        self.fail(MeshError(Reason.CLIENT_CANCELLED, "the caller has left"))

    def _answer(self, results: Sequence[Result], times: Times) -> None:
        assert self.prepared is not None, "it was tokenised before it was computed"
        try:
            data = self.prepared.encode(results)
        except Exception:  # boundary: a request without an answer is a hung client
            log.exception("a response could not be encoded")
            self._refuse(MeshError(Reason.INTERNAL, "the response could not be encoded"))
            return
        self._replies.give_place()
        self._sender.send(response(data), flags=FINAL)
        self._replies.metrics.note_answer(times, seconds=self._trace.age_s(), num_truncated=self.prepared.num_truncated)
        parts = [
            Part(telemetry.QUEUE, times.queued_s, times.begun_s, {}),
            Part(telemetry.FORWARD, times.begun_s, times.ended_s, {telemetry.NUM_INPUTS: len(results)}),
        ]
        self._trace.end({telemetry.INPUT_TOKENS: self.prepared.num_tokens}, parts)

    def _refuse(self, error: MeshError) -> None:
        self._replies.give_place()
        send_error(self._sender, error)
        self._replies.metrics.note_failure(error.reason)
        self._trace.end({}, [], error.reason)


def _guarded(act: Callable[[], None]) -> None:
    try:
        act()
    except Exception:  # boundary: this thread answers everybody
        log.exception("something about a reply was lost")
