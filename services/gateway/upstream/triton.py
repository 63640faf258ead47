"""Decides how a worker is called: one Triton stream per request, ended by its final frame; retries stay with Envoy."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Final

import grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse

from meshkit.errors import MeshError, Reason
from meshkit.wire import AFFINITY_HEADER, MODEL_HEADER, Operation
from services.gateway.call import CURRENT
from services.gateway.catalog import ServedModel
from services.gateway.upstream.affinity import affinity_key
from services.gateway.upstream.failures import from_status, from_text, lost, out_of_time
from services.gateway.upstream.frames import is_final, pack_request, unpack_response
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_UNSPECIFIED, GenerateRequest, GenerateResponse
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
# Triton and the worker count a request's time too, and when theirs ends first the call just ends: that is no loss.
_EARLY_S: Final = 0.02
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),  # the HTTP body limit is the one that counts
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # Envoy may start after the gateway; the default is two minutes
    ("grpc.lb_policy_name", "round_robin"),  # over all Envoys that the name stands for
    # An Envoy whose machine is gone says nothing, and calls would wait for their deadlines. A busy one answers in time.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # what gRPC 1.81 waits; its keepalive_timeout_ms is never looked at
    ("grpc.http2.max_pings_without_data", 0),  # of ours: a long answer is one request
)


UnaryRequest = EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest


def open_channel(target: str) -> grpc.aio.Channel:
    """A channel to the internal listeners of all Envoys at host:port; it connects with the first call."""
    return grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)


class TritonWorker:
    """The Worker of real life: any number of models behind one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # Called as if it took a single request, which looks the same on the wire: grpc.aio hides the status of a call
        # that ends while a stream of requests is still being written, as Envoy ends it when no worker is there.
        self._infer = channel.unary_stream(
            _METHOD,
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelStreamInferResponse.FromString,
        )

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[GenerateResponse, None]:
        """Stream the answer; see Worker.generate."""
        request.timeout_s = min(timeout_s, request.timeout_s) if request.HasField("timeout_s") else timeout_s
        frame = pack_request(
            "chat", request.SerializeToString(), request_id=request.request_id, operation=Operation.GENERATE
        )
        num_unfinished = request.n if request.HasField("n") else 1
        affinity = affinity_key(request)
        async with aclosing(self._call(frame, request.model, timeout_s, affinity)) as payloads:
            async for payload in payloads:
                piece = GenerateResponse.FromString(payload)
                _note_unused(piece.unused_template_values)
                num_unfinished -= piece.finish_reason != FINISH_REASON_UNSPECIFIED
                yield piece
        if num_unfinished:
            raise MeshError(Reason.INTERNAL, f"the worker left {num_unfinished} answers without an end")

    async def embed(self, request: EmbedRequest, *, timeout_s: float) -> EmbedResponse:
        """Embed all inputs; see Worker.embed."""
        payload = await self._ask("embed", Operation.EMBED, request, timeout_s)
        response = EmbedResponse.FromString(payload)
        _check_complete(len(response.embeddings), len(request.inputs))
        return response

    async def rerank(self, request: RerankRequest, *, timeout_s: float) -> RerankResponse:
        """Score all documents; see Worker.rerank."""
        payload = await self._ask("rerank", Operation.RERANK, request, timeout_s)
        response = RerankResponse.FromString(payload)
        _check_complete(len(response.scores), len(request.documents))
        return response

    def together(self, _: Sequence[GenerateRequest] | Sequence[RerankRequest], /) -> AbstractAsyncContextManager[None]:
        """Nothing is decided here; see Worker.together."""
        return nullcontext()

    def check_staying(self) -> None:
        """It never leaves by itself."""

    async def tokenize(self, request: TokenizeRequest, *, timeout_s: float) -> TokenizeResponse:
        """Tokenise; see Worker.tokenize."""
        response = TokenizeResponse.FromString(await self._ask("chat", Operation.TOKENIZE, request, timeout_s))
        _note_unused(response.unused_template_values)
        return response

    async def detokenize(self, request: DetokenizeRequest, *, timeout_s: float) -> DetokenizeResponse:
        """Detokenise; see Worker.detokenize."""
        return DetokenizeResponse.FromString(await self._ask("chat", Operation.DETOKENIZE, request, timeout_s))

    async def ping(self, model: ServedModel, *, timeout_s: float) -> None:
        """Return once the model's engine answered; see Worker.ping."""
        frame = pack_request(model.kind, b"", request_id="", operation=Operation.PING)
        async with aclosing(self._call(frame, model.id, timeout_s)) as payloads:
            async for _ in payloads:
                pass

    async def _ask(self, triton_model: str, operation: Operation, request: UnaryRequest, timeout_s: float) -> bytes:
        """The only payload of the answer."""
        # Over the stream as well: a refusal is then a frame, not a status, and Envoy would ask again after a status.
        frame = pack_request(
            triton_model, request.SerializeToString(), request_id=request.request_id, operation=operation
        )
        async with aclosing(self._call(frame, request.model, timeout_s)) as payloads:
            answers = [payload async for payload in payloads]
        if len(answers) != 1:
            raise MeshError(Reason.INTERNAL, f"the worker sent {len(answers)} answers to one request")
        return answers[0]

    async def _call(
        self, frame: ModelInferRequest, model: str, timeout_s: float, affinity: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        end_s = time.monotonic() + timeout_s
        try:
            async with aclosing(self._payloads(frame, model, timeout_s, affinity)) as payloads:
                async for payload in payloads:
                    yield payload
        except MeshError as error:
            if error.reason is Reason.UPSTREAM_LOST and time.monotonic() >= end_s - _EARLY_S:
                raise out_of_time(model) from error
            raise

    async def _payloads(
        self, frame: ModelInferRequest, model: str, timeout_s: float, affinity: str | None
    ) -> AsyncGenerator[bytes, None]:
        call = self._infer(frame, timeout=timeout_s, metadata=_metadata(frame.id, model, affinity))
        final = False
        try:
            while (message := await _read(call)) is not None:
                if message.error_message:
                    raise from_text(message.error_message, model=model)
                payload = unpack_response(message.infer_response)
                if payload is not None:
                    yield payload
                final = final or is_final(message.infer_response)
        except grpc.aio.AioRpcError as error:
            raise from_status(error, model=model) from error
        finally:
            call.cancel()  # no-op on a call that ended by itself
        if not final:
            raise lost(model)


def _note_unused(names: Sequence[str]) -> None:
    if names and (call := CURRENT.get(None)) is not None:
        call.ignore(f"chat_template_kwargs.{name}" for name in names)


def _check_complete(num_answered: int, num_asked: int) -> None:
    if num_answered != num_asked:
        raise MeshError(Reason.INTERNAL, f"the worker answered {num_answered} of {num_asked}")


async def _read(
    call: grpc.aio.UnaryStreamCall[ModelInferRequest, ModelStreamInferResponse],
) -> ModelStreamInferResponse | None:
    """The next message, or None after the last.

    A caller who leaves cancels the call, never the reading: gRPC would not free what it holds for that (grpc/grpc
    issue 43360).
    """
    reading = asyncio.ensure_future(call.read())
    try:
        message = await asyncio.shield(reading)
    except asyncio.CancelledError:
        call.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()  # nobody's business any more; never asked for, it would be logged
        raise
    return message if isinstance(message, ModelStreamInferResponse) else None


def _metadata(request_id: str, model: str, affinity: str | None) -> list[tuple[str, str]]:
    metadata = [(MODEL_HEADER, model)]
    call = CURRENT.get(None)
    if affinity is not None and (call is None or not call.was_lost):  # it would lead back to the worker that is gone
        metadata.append((AFFINITY_HEADER, affinity))
    if request_id:
        metadata.append(("x-request-id", request_id))
    if call is not None and call.traceparent:
        metadata.append(("traceparent", call.traceparent))
    return metadata
