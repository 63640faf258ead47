"""Speaks Triton's Python-backend language for the chat worker; the only file that knows pb_utils."""

from __future__ import annotations  # Triton's module has no types to import at run time

import itertools
import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import triton_python_backend_utils as pb_utils

from meshkit.errors import MeshError, Reason
from meshkit.logs import setup_logging
from meshkit.telemetry import open_tracing
from meshkit.wire import (
    OPERATION_PARAMETER,
    REQUEST_TENSOR,
    RESPONSE_TENSOR,
    TRACE_PARAMETER,
    Operation,
    encode_error,
)
from services.chat_worker.codec import decode_request, encode_piece
from services.chat_worker.engine.generation import Piece
from services.chat_worker.engine.sequence import RequestId
from services.chat_worker.metrics import EngineMetrics, Kind, Metric, Row
from services.chat_worker.outbox import Outbox
from services.chat_worker.prompt import Prepared
from services.chat_worker.settings import ChatSettings
from services.chat_worker.spans import RequestTrace, RequestTracer
from services.chat_worker.tool_calls import CallReaders
from services.chat_worker.worker import ChatWorker, build_worker

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, InferenceResponse, MetricFamily, ResponseSender

log = logging.getLogger(__name__)

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class ChatAdapter:
    """One loaded chat model inside a Triton stub.

    Triton's thread only accepts; two threads tokenise; the engine thread computes; the outbox thread answers.
    """

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self._ids = itertools.count()
        # A request holds one place from the door to its last response. A semaphore: three threads end requests.
        self._places = threading.BoundedSemaphore(settings.max_requests)
        self._metrics = EngineMetrics(TritonMetrics(), model_id=settings.model_id)
        self._tracing = open_tracing("chat_worker")
        self._traces = RequestTracer(self._tracing.tracer, settings.model_id)
        self._outbox = Outbox(abort=self._abort, observer=self._metrics)
        self._worker: ChatWorker = build_worker(settings, self._outbox)
        self._metrics.describe_cache(num_blocks=self._worker.num_blocks, block_len=self._worker.block_len)
        self._tokenising = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenise")

    @classmethod
    def from_triton(cls, _args: dict[str, str]) -> ChatAdapter:
        """Load the model that the environment names and start its threads; a failure becomes Triton's load error."""
        setup_logging("chat_worker")
        try:
            adapter = cls(ChatSettings())  # pyright: ignore[reportCallIssue]  (the environment fills it)
        except (ValueError, OSError) as error:
            raise pb_utils.TritonModelException(str(error)) from error
        adapter.start()
        return adapter

    def start(self) -> None:
        """Start the outbox and the engine."""
        self._outbox.start()
        self._worker.loop.start()

    def close(self) -> None:
        """Stop the threads in the order that lets every accepted request get an answer."""
        self._tokenising.shutdown()
        self._worker.loop.close()
        self._outbox.close()
        self._tracing.close()

    def execute(self, requests: list[InferenceRequest]) -> None:
        """Accept requests; their answers follow through their response senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._accept(request, sender)
            except MeshError as error:
                _send_error(sender, error)
            except Exception:  # boundary: a request without an answer is a hung client
                log.exception("a request could not be accepted")
                _send_error(sender, MeshError(Reason.INTERNAL, "the request could not be accepted"))

    def _accept(self, request: InferenceRequest, sender: ResponseSender) -> None:
        if not self._worker.loop.is_running:
            raise MeshError(Reason.NOT_READY, "the engine of this worker has stopped")
        parameters = json.loads(request.parameters() or "{}")
        operation = parameters.get(OPERATION_PARAMETER, Operation.GENERATE)
        if operation == Operation.PING:
            self._worker.loop.ping(lambda: _pong(sender))
            return
        if operation != Operation.GENERATE:
            raise MeshError(Reason.UNKNOWN_RPC, f"operation {operation!r} is unknown to a chat worker")
        tensor = pb_utils.get_input_tensor_by_name(request, REQUEST_TENSOR)
        assert tensor is not None, "Triton refuses requests without their input tensor"
        data = bytes(tensor.as_numpy().reshape(-1)[0])
        if not self._places.acquire(blocking=False):
            self._metrics.reject()
            raise MeshError(Reason.QUEUE_FULL, f"{self._settings.max_requests} requests are in progress already")
        trace = self._traces.begin(request.request_id(), parameters.get(TRACE_PARAMETER))
        self._tokenising.submit(self._begin, data, sender, trace)

    def _begin(self, data: bytes, sender: ResponseSender, trace: RequestTrace) -> None:
        """Check and tokenise a request, then hand it to the engine."""
        request_id = RequestId(next(self._ids))
        seed = secrets.randbits(63)
        try:
            request = decode_request(data)
            seed = seed if request.seed is None else request.seed
            prepared = self._worker.prompts.prepare(request, fallback_seed=seed)
        except MeshError as error:
            self._places.release()
            _send_error(sender, error)
            return
        except Exception:  # boundary: a request without an answer is a hung client
            log.exception("a request could not be prepared")
            self._places.release()
            _send_error(sender, MeshError(Reason.INTERNAL, "the request could not be prepared"))
            return
        encode, leave = self._encoder(prepared, seed), self._places.release
        self._outbox.open(request_id, _TritonReply(sender, encode, leave, trace))
        try:
            self._worker.submit(request_id, prepared)
        except Exception:  # boundary: from here on the outbox answers
            log.exception("a request could not be begun")
            self._outbox.fail(request_id, MeshError(Reason.INTERNAL, "the request could not be begun"))

    def _encoder(self, prepared: Prepared, seed: int) -> Callable[[Piece], bytes]:
        model, token_bytes = self._settings.model_id, self._worker.tokenizer.token_bytes
        readers = CallReaders(prepared.tool_names, make_id=lambda: f"call_{secrets.token_hex(12)}")

        def encode(piece: Piece) -> bytes:
            found = readers.read(piece.index, piece.text, last=piece.finish is not None)
            return encode_piece(piece, found, model=model, seed=seed, token_bytes=token_bytes)

        return encode

    def _abort(self, request_id: RequestId) -> None:
        self._worker.loop.abort(request_id)


class TritonMetrics:
    """Registers metrics with Triton, which shows them on its metrics page."""

    def __init__(self) -> None:
        self._families: dict[str, MetricFamily] = {}  # a family that is garbage-collected leaves the page

    def __call__(self, kind: Kind, row: Row, labels: Mapping[str, str], buckets: Sequence[float] = ()) -> Metric:
        """See MakeMetric."""
        if row.name not in self._families:
            number = getattr(pb_utils.MetricFamily, kind.name)
            self._families[row.name] = pb_utils.MetricFamily(name=row.name, description=row.description, kind=number)
        more = {"buckets": list(buckets)} if kind is Kind.HISTOGRAM else {}
        return self._families[row.name].Metric(labels=dict(labels), **more)


class _TritonReply:
    """The way back to one caller through Triton. leave: gives up the caller's place in the worker."""

    def __init__(
        self,
        sender: ResponseSender,
        encode: Callable[[Piece], bytes],
        leave: Callable[[], None],
        trace: RequestTrace,
    ) -> None:
        self._sender = sender
        self._encode = encode
        self._leave = leave
        self._trace = trace

    def send(self, piece: Piece) -> None:
        self._sender.send(_response(self._encode(piece)), flags=_FINAL if piece.last else 0)
        if piece.last:
            self._leave()
        self._trace.note(piece)

    def fail(self, error: MeshError) -> None:
        self._leave()
        _send_error(self._sender, error)
        self._trace.end(error.reason)

    def drop(self) -> None:
        self._leave()
        self._sender.send(flags=_FINAL)
        self._trace.end(Reason.CLIENT_CANCELLED)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


def _response(data: bytes) -> InferenceResponse:
    return pb_utils.InferenceResponse([pb_utils.Tensor(RESPONSE_TENSOR, np.array([data], dtype=np.object_))])


def _pong(sender: ResponseSender) -> None:
    try:
        sender.send(_response(b""), flags=_FINAL)
    except Exception:  # boundary: this runs on the engine's thread, which must survive
        log.exception("a ping could not be answered")


def _send_error(sender: ResponseSender, error: MeshError) -> None:
    code = getattr(pb_utils.TritonError, error.row.triton or "INTERNAL")
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(encode_error(error), code)), flags=_FINAL)
