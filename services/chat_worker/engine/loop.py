"""Runs the engine: the one thread that owns sequences, blocks and tensors; others only leave messages in its inbox."""

import logging
import queue
import threading
from collections.abc import Callable
from collections.abc import Sequence as Rows

from meshkit.errors import MeshError, Reason
from services.chat_worker.engine.engine import Engine
from services.chat_worker.engine.generation import Generation
from services.chat_worker.engine.sequence import RequestId

log = logging.getLogger(__name__)


class EngineLoop:
    """An engine on a thread of its own. All methods may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the step in hand; what is unfinished fails with NOT_READY."""
        self._inbox.put(self._stop)
        self._thread.join()

    def submit(self, answers: Rows[Generation], timeout_s: float | None = None, *, age_s: float = 0.0) -> None:
        """Queue the answers of one request, which share their prompt; the first one's sequence forks the others'.

        Their pieces go to the sink until one carries last, or the request fails: with QUEUE_FULL if too much waits
        already, with DEADLINE timeout_s seconds after its arrival, which was age_s seconds ago.
        """
        arrived_s = self._engine.clock() - age_s
        for generation in answers:
            generation.arrived_s = arrived_s
        self._inbox.put(lambda: self._engine.add(answers, timeout_s))

    def abort(self, request_id: RequestId) -> None:
        """Drop a request, with no more pieces; its blocks are free one step later. Unknown ids are ignored."""
        self._inbox.put(lambda: self._engine.drop(request_id))

    def ping(self, answer: Callable[[], None]) -> None:
        """Have answer called by the loop between two steps: proof that it still turns."""
        self._inbox.put(answer)

    @property
    def is_running(self) -> bool:
        """Whether what is submitted will be answered."""
        return self._thread.is_alive() and not (self._stopping or self._broken)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except Exception:
            log.exception("the engine loop broke; only a restart of the worker helps")
            self._broken = True
        message = "the engine broke; the worker must be restarted" if self._broken else "the worker is shutting down"
        while True:
            self._engine.fail_all(MeshError(Reason.NOT_READY, message))
            if self._stopping and self._inbox.empty():
                return
            self._inbox.get()()  # what was on its way here when the loop broke needs an answer too

    def _turn(self) -> None:
        self._read_inbox()
        if self._engine.has_work and not self._stopping:
            self._engine.step()
        self._engine.observe()

    def _read_inbox(self) -> None:
        """Carry out what was asked; waits for something to do only when there is nothing to compute."""
        if not self._engine.has_work:
            self._inbox.get()()
        for _ in range(self._inbox.qsize()):  # what arrives meanwhile waits for the next turn
            self._inbox.get()()

    def _stop(self) -> None:
        self._stopping = True
