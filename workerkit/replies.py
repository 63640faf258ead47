"""Answers requests and keeps the books of them on a thread of its own, so that neither holds up a batch."""

from __future__ import annotations  # Triton's module has no types to import at run time

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic

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


class Replies:
    """The thread, the metrics only it touches, and the places that requests hold from the door to their answer."""

    def __init__(self, metrics: BatchMetrics, max_requests: int) -> None:
        self.metrics = metrics
        self._places = threading.BoundedSemaphore(max_requests)  # taken by Triton's thread, given back by this one
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reply")

    def close(self) -> None:
        """Do what is queued, then stop."""
        self._thread.shutdown()

    def later(self, act: Callable[[], None]) -> None:
        """Have something done on the thread; what goes wrong there is nobody else's trouble."""
        self._thread.submit(_guarded, act)

    def take_place(self) -> bool:
        """Whether there was room for one more request."""
        taken = self._places.acquire(blocking=False)
        if not taken:
            self.later(lambda: self.metrics.note_failure(Reason.QUEUE_FULL))
        return taken

    def give_place(self) -> None:
        """A request has ended."""
        self._places.release()

    def observe_batch(self, batch: Batch) -> None:
        """See Observer."""
        self.later(lambda: self.metrics.note_batch(batch))

    def observe_load(self, load: Load) -> None:
        """See Observer."""
        self.later(lambda: self.metrics.note_load(load))


class TritonReply(Generic[SomeItem, Result]):
    """The way back to one caller, who holds a place. prepared: known once the request was tokenised."""

    def __init__(self, replies: Replies, sender: ResponseSender, trace: RequestTrace) -> None:
        self._replies = replies
        self._sender = sender
        self._trace = trace
        self.prepared: Prepared[SomeItem, Result] | None = None

    def is_cancelled(self) -> bool:
        """See Reply."""
        return bool(self._sender.is_cancelled())

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
