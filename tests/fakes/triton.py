"""A real gRPC server that speaks Triton's streaming protocol and answers by script; it runs no model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

import grpc
from tritonclient.grpc.service_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from meshkit.wire import OPERATION_PARAMETER, REQUEST_TENSOR, RESPONSE_TENSOR, Operation
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_STOP, GenerateRequest, GenerateResponse
from zhinao.common.v1.common_pb2 import Usage
from zhinao.embedding.v1.embedding_pb2 import Embedding, EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse, RerankScore
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse


@dataclass(frozen=True, slots=True)
class ErrorText:
    """A step: end the answer with Triton's error_message."""

    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """A step: end the whole call with a gRPC status."""

    code: grpc.StatusCode
    details: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """A step: say nothing until released, or until the caller cancels."""

    release: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Vanish:
    """A step: end the stream without its final frame."""


@dataclass(frozen=True, slots=True)
class Compute:
    """A step: do what this makes of the request."""

    answer: "Callable[[Request], Sequence[Step]]"


Request = GenerateRequest | EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest
Response = GenerateResponse | EmbedResponse | RerankResponse | TokenizeResponse | DetokenizeResponse
AnyRequest = TypeVar("AnyRequest", GenerateRequest, EmbedRequest, RerankRequest)
Step = Response | ErrorText | Status | Hold | Vanish | Compute


def piece(text: str, *token_ids: int) -> GenerateResponse:
    """A piece of an answer that goes on."""
    return GenerateResponse(text=text, token_ids=token_ids or [7])


def last(
    text: str = "", *, reason: int = FINISH_REASON_STOP, prompt_tokens: int = 5, completion_tokens: int = 3
) -> GenerateResponse:
    """The piece that ends an answer."""
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    return GenerateResponse(text=text, token_ids=[9], finish_reason=reason, usage=usage)


def vectors(*rows: Sequence[float], truncated: Sequence[int] = ()) -> EmbedResponse:
    """A worker's answer of these vectors; truncated: tokens cut off each input."""
    embeddings = [Embedding(values=row) for row in rows]
    for embedding, num_tokens in zip(embeddings, truncated, strict=False):
        embedding.truncated_tokens = num_tokens
    usage = Usage(prompt_tokens=7)
    return EmbedResponse(embeddings=embeddings, usage=usage, model="zhinao-embed", space="space-1")


def scores(*relevances: float, threshold: float | None = None, truncated: int = 0) -> RerankResponse:
    """A worker's answer of these scores, raw ones ten times as high; truncated: tokens cut off the last document."""
    each = [RerankScore(relevance=relevance, raw=relevance * 10) for relevance in relevances]
    each[-1].truncated_tokens = truncated
    usage = Usage(prompt_tokens=11)
    return RerankResponse(scores=each, usage=usage, model="zhinao-rerank", threshold=threshold)


HELLO: tuple[Step, ...] = (piece("Hel"), piece("lo"), last("!"))


@dataclass(frozen=True, slots=True)
class Received:
    """One call as Triton saw it."""

    triton_model: str
    operation: str
    request: Request
    metadata: dict[str, str]


class FakeTriton(GRPCInferenceServiceServicer):
    """Answers generations by `script` and pings by `ping_script`; remembers who called and who left."""

    def __init__(self) -> None:
        self._server = grpc.aio.server()
        self.target = ""
        self.reset()

    def reset(self) -> None:
        """Forget the scripts and the calls of an earlier test."""
        self.script: Sequence[Step] = HELLO
        self.ping_script: Sequence[Step] = (GenerateResponse(),)  # which is empty bytes
        self.received: list[Received] = []
        self.holding = asyncio.Event()  # a script reached a Hold
        self.cancelled = asyncio.Event()  # a caller left before the end

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        """Serve on a free port, at `target`."""
        fake = cls()
        add_GRPCInferenceServiceServicer_to_server(fake, fake._server)
        fake.target = f"127.0.0.1:{fake._server.add_insecure_port('127.0.0.1:0')}"
        await fake._server.start()
        try:
            yield fake
        finally:
            await fake.stop()

    async def stop(self) -> None:
        """Go away, mid-answer if need be."""
        await self._server.stop(None)

    @property
    def request(self) -> GenerateRequest:
        """The only generation that was asked for."""
        return self._only(GenerateRequest)

    @property
    def embed_request(self) -> EmbedRequest:
        """The only embedding that was asked for."""
        return self._only(EmbedRequest)

    @property
    def rerank_request(self) -> RerankRequest:
        """The only reranking that was asked for."""
        return self._only(RerankRequest)

    def _only(self, kind: type[AnyRequest]) -> AnyRequest:
        (request,) = [
            each.request
            for each in self.received
            if isinstance(each.request, kind) and each.operation != Operation.PING
        ]
        return request

    async def ModelStreamInfer(
        self,
        requests: AsyncIterator[ModelInferRequest],
        context: "grpc.aio.ServicerContext[ModelInferRequest, ModelStreamInferResponse]",
    ) -> AsyncGenerator[ModelStreamInferResponse, None]:
        """Answer each request of the stream, as Triton does for a decoupled model."""
        try:
            async for request in requests:
                received = _read(request, context)
                self.received.append(received)
                script = self.ping_script if received.operation == Operation.PING else self.script
                async for frame in self._play(script, received.request, context):
                    yield frame
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _play(
        self,
        script: Sequence[Step],
        request: Request,
        context: "grpc.aio.ServicerContext[ModelInferRequest, ModelStreamInferResponse]",
    ) -> AsyncGenerator[ModelStreamInferResponse, None]:
        for step in _computed(script, request):
            match step:
                case (
                    GenerateResponse() | EmbedResponse() | RerankResponse() | TokenizeResponse() | DetokenizeResponse()
                ):
                    yield _frame(step.SerializeToString())
                case Hold():
                    self.holding.set()
                    await step.release.wait()
                case ErrorText():
                    yield ModelStreamInferResponse(error_message=step.text)
                    return
                case Status():
                    await context.abort(step.code, step.details)
                case Vanish():
                    return
        yield ModelStreamInferResponse(infer_response=ModelInferResponse(parameters=_final(True)))


_KINDS: Final = {"chat": GenerateRequest, "embed": EmbedRequest, "rerank": RerankRequest}
_TOKENISER: Final = {Operation.TOKENIZE: TokenizeRequest, Operation.DETOKENIZE: DetokenizeRequest}


def _computed(script: Sequence[Step], request: Request) -> Iterator[Step]:
    for step in script:
        yield from step.answer(request) if isinstance(step, Compute) else (step,)


def _read(
    request: ModelInferRequest, context: "grpc.aio.ServicerContext[ModelInferRequest, ModelStreamInferResponse]"
) -> Received:
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == (REQUEST_TENSOR, "BYTES", [1])
    assert request.parameters["triton_enable_empty_final_response"].bool_param
    (content,) = request.raw_input_contents
    assert int.from_bytes(content[:4], "little") == len(content) - 4
    operation = request.parameters[OPERATION_PARAMETER].string_param
    kind = _TOKENISER.get(Operation(operation), _KINDS[request.model_name])
    return Received(
        triton_model=request.model_name,
        operation=operation,
        request=kind.FromString(content[4:]),
        metadata={key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)},
    )


def _frame(payload: bytes) -> ModelStreamInferResponse:
    output = ModelInferResponse.InferOutputTensor(name=RESPONSE_TENSOR, datatype="BYTES", shape=[1])
    content = len(payload).to_bytes(4, "little") + payload
    response = ModelInferResponse(outputs=[output], raw_output_contents=[content], parameters=_final(False))
    return ModelStreamInferResponse(infer_response=response)


def _final(value: bool) -> dict[str, InferParameter]:
    return {"triton_final_response": InferParameter(bool_param=value)}
