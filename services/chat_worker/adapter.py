"""Joins the chat worker with Triton: accepts requests, and carries what becomes of them back to their callers."""

from __future__ import annotations  # Triton's module has no types to import at run time

import itertools
import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from meshkit.errors import MeshError, Reason
from meshkit.telemetry import open_tracing
from meshkit.wire import Operation
from modelkit.threads import use_threads
from services.chat_worker.answers import AnswerReaders
from services.chat_worker.codec import (
    decode_detokenize,
    decode_request,
    decode_tokenize,
    encode_piece,
    encode_text,
    encode_tokens,
)
from services.chat_worker.engine.generation import Piece
from services.chat_worker.engine.sequence import Priority, RequestId
from services.chat_worker.metrics import EngineMetrics
from services.chat_worker.outbox import Outbox
from services.chat_worker.prompt import Prepared
from services.chat_worker.settings import ChatSettings
from services.chat_worker.spans import ChatTrace, ChatTracer
from services.chat_worker.worker import ChatWorker, build_worker
from workerkit.triton import FINAL, Call, TritonMetrics, accept_all, answer_ping, load, response, send_error

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, ResponseSender

log = logging.getLogger(__name__)

_BULK_SHARE = 0.75  # of the places; the rest is never bulk's


class ChatAdapter:
    """One loaded chat model inside a Triton stub.

    Triton's thread only accepts; two threads tokenise; the engine thread computes; the outbox thread answers.
    """

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self._ids = itertools.count()
        # A request holds one place from the door to its last response. A semaphore: three threads end requests.
        self._places = threading.BoundedSemaphore(settings.max_requests)
        self._bulk_places = threading.BoundedSemaphore(max(1, int(settings.max_requests * _BULK_SHARE)))
        self._metrics = EngineMetrics(TritonMetrics(), model_id=settings.model_id)
        self._tracing = open_tracing("chat_worker")
        self._traces = ChatTracer(self._tracing.tracer, settings.model_id)
        self._outbox = Outbox(abort=self._abort, observer=self._metrics)
        self._worker: ChatWorker = build_worker(settings, self._outbox)
        self._metrics.describe_cache(num_blocks=self._worker.num_blocks, block_len=self._worker.block_len)
        self._tokenising = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenise")

    @classmethod
    def from_triton(cls, _args: dict[str, str]) -> ChatAdapter:
        """Load the model that the environment names and start its threads; a failure becomes Triton's load error."""
        adapter = load("chat_worker", lambda: cls(ChatSettings()))  # pyright: ignore[reportCallIssue]  (the environment fills it)
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
        accept_all(requests, self._accept)

    def _accept(self, call: Call) -> None:
        if not self._worker.loop.is_running:
            raise MeshError(Reason.NOT_READY, "the engine of this worker has stopped")
        if call.operation == Operation.PING:
            self._worker.loop.ping(lambda: answer_ping(call, use_threads))
            return
        work = self._work(call)
        if not self._places.acquire(blocking=False):
            self._metrics.reject()
            raise MeshError(Reason.QUEUE_FULL, f"{self._settings.max_requests} requests are in progress already")
        try:
            self._tokenising.submit(work)
        except Exception:
            self._places.release()
            raise

    def _work(self, call: Call) -> Callable[[], None]:
        """What a tokenising thread is to do for a call, which gives its place back or passes it on."""
        match call.operation:
            case None | Operation.GENERATE:
                trace = self._traces.begin(call.request_id, call.traceparent)
                return partial(self._begin, call.payload(), call.sender, trace)
            case Operation.TOKENIZE:
                return partial(self._answer, self._tokenize, call.payload(), call.sender)
            case Operation.DETOKENIZE:
                return partial(self._answer, self._detokenize, call.payload(), call.sender)
            case unknown:
                raise MeshError(Reason.UNKNOWN_RPC, f"operation {unknown!r} is unknown to a chat worker")

    def _answer(self, work: Callable[[bytes], bytes], data: bytes, sender: ResponseSender) -> None:
        """Do what needs no engine."""
        try:
            sender.send(response(work(data)), flags=FINAL)
        except MeshError as error:
            send_error(sender, error)
        except Exception:  # boundary: a request without an answer is a hung client
            log.exception("a request could not be answered")
            send_error(sender, MeshError(Reason.INTERNAL, "the request could not be answered"))
        finally:
            self._places.release()

    def _tokenize(self, data: bytes) -> bytes:
        prompts, (prompt, model) = self._worker.prompts, decode_tokenize(data)
        ids = prompts.token_ids(prompt, model)
        token_bytes = self._worker.tokenizer.token_bytes
        return encode_tokens(
            ids,
            model=self._settings.model_id,
            max_model_len=prompts.max_model_len,
            token_bytes=token_bytes,
            unused_values=prompts.unused_values(prompt),
        )

    def _detokenize(self, data: bytes) -> bytes:
        prompt, model = decode_detokenize(data)
        text = self._worker.tokenizer.decode(self._worker.prompts.token_ids(prompt, model, param="tokens"))
        return encode_text(text, model=self._settings.model_id)

    def _begin(self, data: bytes, sender: ResponseSender, trace: ChatTrace) -> None:
        """Check and tokenise a request, then hand it to the engine."""
        request_id = RequestId(next(self._ids))
        seed = secrets.randbits(63)
        try:
            request = decode_request(data)
            seed = seed if request.seed is None else request.seed
            prepared = self._worker.prompts.prepare(request, fallback_seed=seed)
            encode = _encoder(self._worker, self._settings.model_id, prepared, seed)
            leave = self._take_share(prepared)
        except MeshError as error:
            self._places.release()
            send_error(sender, error)
            return
        except Exception:  # boundary: a request without an answer is a hung client
            log.exception("a request could not be prepared")
            self._places.release()
            send_error(sender, MeshError(Reason.INTERNAL, "the request could not be prepared"))
            return
        self._outbox.open(request_id, _TritonReply(sender, encode, leave, trace))
        try:
            self._worker.submit(request_id, prepared, age_s=trace.request.age_s())
        except Exception:  # boundary: from here on the outbox answers
            log.exception("a request could not be begun")
            self._outbox.fail(request_id, MeshError(Reason.INTERNAL, "the request could not be begun"))

    def _take_share(self, prepared: Prepared) -> Callable[[], None]:
        """Bulk requests never fill the worker: interactive ones find a place. Returns what gives all places back."""
        if prepared.priority is not Priority.BULK:
            return self._places.release
        if not self._bulk_places.acquire(blocking=False):
            self._metrics.reject()
            raise MeshError(Reason.QUEUE_FULL, "as many bulk requests are in progress as may be beside others")
        return self._leave_bulk

    def _leave_bulk(self) -> None:
        self._bulk_places.release()
        self._places.release()

    def _abort(self, request_id: RequestId) -> None:
        self._worker.loop.abort(request_id)


def _encoder(worker: ChatWorker, model: str, prepared: Prepared, seed: int) -> Callable[[Piece], bytes]:
    token_bytes = worker.tokenizer.token_bytes
    readers = AnswerReaders(
        prepared.begins_with, prepared.tool_names, token_bytes, several_calls=prepared.several_calls
    )
    for piece in worker.told(prepared):
        readers.read(piece)
    unused = () if prepared.generated_token_ids else prepared.unused_values  # told once

    def encode(piece: Piece) -> bytes:
        nonlocal unused
        told, unused = unused, ()
        contents = readers.read(piece)
        return encode_piece(piece, contents, model=model, seed=seed, token_bytes=token_bytes, unused_values=told)

    return encode


class _TritonReply:
    """The way back to one caller through Triton. leave: gives up the caller's place in the worker."""

    def __init__(
        self,
        sender: ResponseSender,
        encode: Callable[[Piece], bytes],
        leave: Callable[[], None],
        trace: ChatTrace,
    ) -> None:
        self._sender = sender
        self._encode = encode
        self._leave = leave
        self._trace = trace

    def send(self, piece: Piece) -> None:
        self._sender.send(response(self._encode(piece)), flags=FINAL if piece.last else 0)
        if piece.last:
            self._leave()
        self._trace.note(piece)

    def fail(self, error: MeshError) -> None:
        self._leave()
        send_error(self._sender, error)
        self._trace.end(error.reason)

    def drop(self) -> None:
        self._leave()
        self._sender.send(flags=FINAL)
        self._trace.end(Reason.CLIENT_CANCELLED)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())
