"""Carries requests that have one answer each from Triton through tokenising and batches back; knows no model."""

from __future__ import annotations  # Triton's module has no types to import at run time

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Generic, Protocol

from meshkit.errors import MeshError, Reason
from meshkit.telemetry import EMBEDDINGS, RERANK, open_tracing
from meshkit.wire import Operation
from workerkit.batch_metrics import BatchMetrics
from workerkit.batcher import Batcher
from workerkit.prepared import Prepared, Result, SomeItem
from workerkit.replies import Replies, TritonReply
from workerkit.traces import RequestTracer
from workerkit.triton import Call, TritonMetrics, accept_all, answer_ping

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest

    from workerkit.settings import UnarySettings

log = logging.getLogger(__name__)

_NUM_TOKENISERS: Final = 2
_SPANS: Final = {Operation.EMBED: EMBEDDINGS, Operation.RERANK: RERANK}


class UnaryModel(Protocol[SomeItem, Result]):
    """A kind of model, as far as the adapter must know it."""

    def prepare(self, data: bytes) -> Prepared[SomeItem, Result]:
        """Decode a serialised request, check and tokenise it. Raises MeshError. Called beside run, on two threads."""
        ...

    def run(self, items: Sequence[SomeItem]) -> Sequence[Result]:
        """Compute items of any requests: one result each, in order."""
        ...

    def use_threads(self, count: int) -> None:
        """Compute with so many from now on; called on the thread that calls run."""
        ...


class UnaryAdapter(Generic[SomeItem, Result]):
    """One loaded model inside a Triton stub.

    Triton's thread only accepts; two threads decode and tokenise; one computes; one encodes and answers.
    """

    def __init__(self, model: UnaryModel[SomeItem, Result], operation: Operation, settings: UnarySettings) -> None:
        self._model = model
        self._operation = operation
        self._settings = settings
        self._tracing = open_tracing(f"{operation}_worker")
        self._traces = RequestTracer(self._tracing.tracer, _SPANS[operation], settings.model_id)
        self._replies = Replies(BatchMetrics(TritonMetrics(), model_id=settings.model_id), settings.max_requests)
        self._tokenising = ThreadPoolExecutor(_NUM_TOKENISERS, thread_name_prefix="tokenise")
        self._batcher: Batcher[SomeItem, Result] = Batcher(
            model.run,
            self._replies,
            max_batch_tokens=settings.max_batch_tokens,
            max_waiting_tokens=settings.max_waiting_tokens,
        )

    def start(self) -> None:
        """Start the threads."""
        self._replies.start()
        self._batcher.start()

    def close(self) -> None:
        """Stop the threads in the order that lets every accepted request get an answer."""
        self._tokenising.shutdown()
        self._batcher.close()
        self._replies.close()
        self._tracing.close()

    def execute(self, requests: list[InferenceRequest]) -> None:
        """Accept requests; their answers follow through their response senders."""
        accept_all(requests, self._accept)

    def _accept(self, call: Call) -> None:
        if not self._batcher.is_running:
            raise MeshError(Reason.NOT_READY, "this worker computes no more")
        if call.operation == Operation.PING:
            self._batcher.ping(lambda: answer_ping(call, self._model.use_threads))
            return
        if call.operation not in (None, self._operation):
            raise MeshError(Reason.UNKNOWN_RPC, f"this worker does {self._operation!r}, not {call.operation!r}")
        data = call.payload()
        if not self._replies.take_place():
            raise MeshError(Reason.QUEUE_FULL, f"{self._settings.max_requests} requests are in progress already")
        trace = self._traces.begin(call.request_id, call.traceparent)
        self._tokenising.submit(self._begin, data, TritonReply(self._replies, call.sender, trace))

    def _begin(self, data: bytes, reply: TritonReply[SomeItem, Result]) -> None:
        """Decode and tokenise a request, then queue it."""
        try:
            prepared = self._model.prepare(data)
            costs = [len(item.token_ids) for item in prepared.items]
            if sum(costs) > (limit := self._settings.max_request_tokens):
                raise MeshError(
                    Reason.INVALID_REQUEST, f"the request is {sum(costs)} tokens in all, the limit is {limit}"
                )
            reply.prepared = prepared
            self._batcher.submit(prepared.items, costs, reply)
        except MeshError as error:
            reply.fail(error)
        except Exception:  # boundary: a request without an answer is a hung client
            log.exception("a request could not be prepared")
            reply.fail(MeshError(Reason.INTERNAL, "the request could not be prepared"))
