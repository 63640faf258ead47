"""Decides what is measured of a worker that computes batches and under which names; knows no Triton."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from meshkit.errors import Reason
from workerkit.batcher import Batch, Load, Times
from workerkit.metrics import Kind, MakeMetric, Row, TalliedCounter, TalliedHistogram

_LOAD: Final[Mapping[str, Row]] = MappingProxyType(  # by the field of Load
    {
        "num_waiting": Row("mesh_requests_waiting", "Requests with inputs that wait for their batch"),
        "waiting_items": Row("mesh_inputs_waiting", "Texts, or pairs of query and document, that wait for their batch"),
        "waiting_tokens": Row("mesh_tokens_waiting", "Tokens that wait for their batch"),
        "oldest_wait_s": Row("mesh_queue_age_seconds", "How long the oldest of the requests that wait has waited"),
        "busy_ratio": Row("mesh_busy_ratio", "Share of its recent time that the worker computed batches"),
    }
)
_IN_PROGRESS: Final = Row("mesh_requests_in_progress", "Requests that were accepted and are not answered yet")
_ENDED: Final = Row("mesh_requests_ended_total", "Requests by how they ended: ok, or the reason of the failure")
_INPUTS: Final = Row("mesh_inputs_total", "Texts, or pairs of query and document, that were computed")
_TOKENS: Final = Row("mesh_input_tokens_total", "Tokens that were computed; padding is not counted")
_TRUNCATED: Final = Row("mesh_truncated_inputs_total", "Inputs of which tokens were dropped")
_BATCH_TOKENS: Final = Row("mesh_batch_tokens", "Tokens of a batch")
_FORWARD: Final = Row("mesh_batch_forward_seconds", "Computing a batch")
_QUEUE: Final = Row("mesh_request_queue_seconds", "From the queue to a request's first batch")
_REQUEST: Final = Row("mesh_worker_request_duration_seconds", "From arrival at the worker to the answer")

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_COUNTS: Final = tuple(float(2**power) for power in range(4, 18))
_OK: Final = "ok"


class BatchMetrics:
    """What a worker did and how long it took. Its methods may be called from one thread at a time.

    The load is shown at once; what happens with every request or batch is noted, and shown when tell is called.
    """

    def __init__(self, make: MakeMetric, *, model_id: str) -> None:
        self._make, self._labels = make, {"model_name": model_id}
        self._load = {field: make(Kind.GAUGE, row, self._labels) for field, row in _LOAD.items()}
        self._shown = Load(0, 0, 0, 0.0, 0.0)
        self._in_progress = make(Kind.GAUGE, _IN_PROGRESS, self._labels)
        self._shown_in_progress = 0
        self._ended: dict[str, TalliedCounter] = {}
        self._inputs, self._tokens, self._truncated = map(self._counter, (_INPUTS, _TOKENS, _TRUNCATED))
        self._batch_tokens = TalliedHistogram(make, _BATCH_TOKENS, self._labels, _COUNTS)
        self._forward, self._queue, self._request = (
            TalliedHistogram(make, row, self._labels, _SECONDS) for row in (_FORWARD, _QUEUE, _REQUEST)
        )

    def note_batch(self, batch: Batch) -> None:
        """A batch was computed."""
        self._inputs.increment(batch.num_items)
        self._tokens.increment(batch.num_tokens)
        self._batch_tokens.observe(batch.num_tokens)
        self._forward.observe(batch.seconds)

    def note_load(self, load: Load) -> None:
        """Show what waits; only what changed is touched, as each touch is a call into Triton's process."""
        load = replace(load, oldest_wait_s=round(load.oldest_wait_s, 1), busy_ratio=round(load.busy_ratio, 2))
        for field, metric in self._load.items():
            if (value := getattr(load, field)) != getattr(self._shown, field):
                metric.set(value)
        self._shown = load

    def note_answer(self, times: Times, *, seconds: float, num_truncated: int) -> None:
        """A request was answered. seconds: since it arrived; num_truncated: inputs that were cut."""
        self._count(_OK)
        self._queue.observe(times.begun_s - times.queued_s)
        self._request.observe(seconds)
        self._truncated.increment(num_truncated)

    def note_failure(self, reason: Reason) -> None:
        """A request ended without an answer."""
        self._count(reason)

    def tell(self, *, num_in_progress: int) -> None:
        """Show what was noted since the last time, and how many requests are accepted and not answered now."""
        if num_in_progress != self._shown_in_progress:
            self._in_progress.set(num_in_progress)
            self._shown_in_progress = num_in_progress
        for counter in (self._inputs, self._tokens, self._truncated, *self._ended.values()):
            counter.tell()
        for histogram in (self._batch_tokens, self._forward, self._queue, self._request):
            histogram.tell()

    def _count(self, end: str) -> None:
        if end not in self._ended:
            self._ended[end] = self._counter(_ENDED, reason=end)
        self._ended[end].increment()

    def _counter(self, row: Row, **labels: str) -> TalliedCounter:
        return TalliedCounter(self._make(Kind.COUNTER, row, self._labels | labels))
