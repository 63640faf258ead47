"""Computes batches on the one thread that owns the queue and tells every request how it ended; knows no Triton."""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from meshkit.errors import MeshError, Reason
from workerkit.waiting import Job, Waiting

log = logging.getLogger(__name__)

BUSY_S: Final = 4.0  # the share of time spent computing is a mean in which a time so long ago counts 1/e of now

Item = TypeVar("Item")
Result = TypeVar("Result")
Result_contra = TypeVar("Result_contra", contravariant=True)


class Reply(Protocol[Result_contra]):
    """Who waits for a request. Exactly one of finish, fail and drop ends it, on the batcher's thread: be quick."""

    def is_cancelled(self) -> bool:
        """Whether the caller has left."""
        ...

    def finish(self, results: Sequence[Result_contra], times: "Times") -> None:
        """All items are computed; results are in their order."""
        ...

    def fail(self, error: MeshError) -> None:
        """The request ends without results."""
        ...

    def drop(self) -> None:
        """The caller had left before everything was computed."""
        ...


@dataclass(frozen=True, slots=True)
class Times:
    """When a request was queued, when its first batch began and its last one ended; of the clock, in seconds."""

    queued_s: float
    begun_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What was computed in one go. seconds: of the computation alone."""

    num_items: int
    num_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """What waits for its first or next batch: requests, their items, tokens of those, and how long the oldest waits.

    busy_ratio: see BUSY_S.
    """

    num_waiting: int
    waiting_items: int
    waiting_tokens: int
    oldest_wait_s: float
    busy_ratio: float


class Observer(Protocol):
    """Is told, on the batcher's thread, what happens."""

    def observe_batch(self, batch: Batch) -> None:
        """A batch was computed."""
        ...

    def observe_load(self, load: Load) -> None:
        """What waits, after each turn."""
        ...


@dataclass(slots=True, eq=False)
class _Task(Job, Generic[Item, Result]):
    items: Sequence[Item]
    reply: Reply[Result]
    queued_s: float
    begun_s: float = 0.0
    results: dict[int, Result] = field(default_factory=dict[int, Result])


class Batcher(Generic[Item, Result]):
    """A model on a thread of its own. All methods may be called from any thread.

    run: computes items of any requests together, and answers one result for each, in order.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        observer: Observer,
        *,
        max_batch_tokens: int,
        max_waiting_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = run
        self._observer = observer
        self._max_waiting_tokens = max_waiting_tokens
        self._clock = clock
        self._waiting: Waiting[_Task[Item, Result]] = Waiting(max_batch_tokens)
        self._busy_ratio, self._counted_s = 0.0, -math.inf
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._broken = False
        self._thread = threading.Thread(target=self._turn_until_stopped, name="compute", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the batch in hand; what still waits fails with NOT_READY."""
        self._inbox.put(self._stop)
        self._thread.join()

    def submit(self, items: Sequence[Item], costs: Sequence[int], reply: Reply[Result]) -> None:
        """Queue the items of one request with their costs in tokens; reply hears QUEUE_FULL if too much waits."""
        task = _Task(costs, items, reply, self._clock())
        self._inbox.put(lambda: self._add(task))

    def ping(self, answer: Callable[[], None]) -> None:
        """Have answer called by the thread between two batches: proof that it still turns."""
        self._inbox.put(answer)

    @property
    def is_running(self) -> bool:
        """Whether what is submitted will be computed."""
        return self._thread.is_alive() and not (self._stopping or self._broken)

    def _turn_until_stopped(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except Exception:
            log.exception("the compute thread broke; only a restart of the worker helps")
            self._broken = True
        while True:
            self._refuse_all()
            if self._stopping and self._inbox.empty():
                return
            self._inbox.get()()  # what was on its way here needs an answer too

    def _turn(self) -> None:
        if not self._waiting:
            self._inbox.get()()
        self._read_inbox()
        if not self._stopping and (shares := self._take()):
            self._run(shares)
            self._read_inbox()  # what came during the batch waits already
        self._observer.observe_load(self._load())

    def _read_inbox(self) -> None:
        for _ in range(self._inbox.qsize()):  # what arrives meanwhile waits for the next time
            self._inbox.get()()

    def _load(self) -> Load:
        waiting = self._waiting
        oldest_s = min((task.queued_s for task in waiting), default=None)
        now_s = self._clock()
        self._count_time(now_s, busy=False)
        oldest_wait_s = 0.0 if oldest_s is None else now_s - oldest_s
        return Load(len(waiting), waiting.num_items, waiting.num_tokens, oldest_wait_s, self._busy_ratio)

    def _count_time(self, until_s: float, *, busy: bool) -> None:
        """All time since it was counted last was like that."""
        weight = math.exp((self._counted_s - until_s) / BUSY_S)
        self._busy_ratio = weight * self._busy_ratio + (1 - weight) * busy
        self._counted_s = until_s

    def _add(self, task: _Task[Item, Result]) -> None:
        waiting, more = self._waiting.num_tokens, task.waiting_tokens
        if self._waiting and waiting + more > self._max_waiting_tokens:
            task.reply.fail(
                MeshError(
                    Reason.QUEUE_FULL,
                    f"{waiting} tokens wait already; {more} more would pass the limit of {self._max_waiting_tokens}",
                )
            )
        else:
            self._waiting.add(task)

    def _take(self) -> list[tuple[_Task[Item, Result], int]]:
        """The next batch, without those whose callers have left; empty if nobody is left to compute for."""
        while shares := self._waiting.take():
            left = {task for task in _tasks(shares) if _has_left(task.reply)}
            for task in left:
                self._waiting.remove(task)
                task.reply.drop()
            if kept := [share for share in shares if share[0] not in left]:
                return kept
        return []

    def _run(self, shares: Sequence[tuple[_Task[Item, Result], int]]) -> None:
        began_s = self._clock()
        self._count_time(began_s, busy=False)
        try:
            results = self._compute([task.items[index] for task, index in shares])
            assert len(results) == len(shares), f"{len(results)} results for {len(shares)} items"
        except Exception as error:  # boundary: every request of a failed batch is answered
            log.exception("a batch of %d items failed", len(shares))
            self._fail(_tasks(shares), error)
            return
        ended_s = self._clock()
        self._count_time(ended_s, busy=True)
        for (task, index), result in zip(shares, results, strict=True):
            task.begun_s = task.begun_s if task.results else began_s
            task.results[index] = result
        for task in _tasks(shares):
            if len(task.results) == len(task.items):
                ordered = [task.results[index] for index in range(len(task.items))]
                task.reply.finish(ordered, Times(task.queued_s, task.begun_s, ended_s))
        num_tokens = sum(task.costs[index] for task, index in shares)
        self._observer.observe_batch(Batch(len(shares), num_tokens, ended_s - began_s))

    def _fail(self, tasks: Sequence[_Task[Item, Result]], error: Exception) -> None:
        known = error if isinstance(error, MeshError) else MeshError(Reason.INTERNAL, "the batch could not be computed")
        for task in tasks:
            self._waiting.remove(task)
            task.reply.fail(known)

    def _refuse_all(self) -> None:
        while shares := self._waiting.take():
            self._fail(_tasks(shares), MeshError(Reason.NOT_READY, "the worker is shutting down"))

    def _stop(self) -> None:
        self._stopping = True


def _tasks(shares: Sequence[tuple[_Task[Item, Result], int]]) -> list[_Task[Item, Result]]:
    """Each task once, in order."""
    return list(dict.fromkeys(task for task, _ in shares))


def _has_left(reply: Reply[Result]) -> bool:
    try:
        return reply.is_cancelled()
    except Exception:  # boundary: who cannot be asked gets an answer, and so does everybody else
        log.exception("a caller could not be asked whether it has left")
        return False
