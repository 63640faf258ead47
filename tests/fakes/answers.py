"""Answers that fit any request: as many, and with as much beside the text, as it asks for."""

from collections.abc import Iterator, Sequence

from tests.fakes.triton import Request, Response, last, piece, scores, vectors
from zhinao.chat.v1.chat_pb2 import (
    FINISH_REASON_STOP,
    FINISH_REASON_TOOL_CALLS,
    GenerateRequest,
    TokenLogprob,
    TokenScore,
    ToolCallDelta,
    ToolChoice,
)
from zhinao.embedding.v1.embedding_pb2 import EmbedRequest
from zhinao.rerank.v1.rerank_pb2 import RerankRequest
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse

_HALF = "é".encode()[:1]  # a token may be part of a character


def fitting(request: Request) -> Sequence[Response]:
    """What a worker might say to it."""
    match request:
        case GenerateRequest():
            return list(_pieces(request))
        case EmbedRequest():
            return [vectors(*[[0.5] * min(request.dimensions or 2, 8)] * len(request.inputs))]
        case RerankRequest():
            return [scores(*[0.5] * len(request.documents))]
        case TokenizeRequest():
            return [TokenizeResponse(ids=[1, 2], pieces=[b"a", _HALF], max_model_len=64)]
        case DetokenizeRequest():
            return [DetokenizeResponse(text="é" * len(request.ids))]


def _pieces(request: GenerateRequest) -> Iterator[Response]:
    calls = request.chat.tool_choice.mode in (ToolChoice.MODE_REQUIRED, ToolChoice.MODE_NAMED)
    for index in range(request.n or 1):
        first = piece("" if calls else "Hé")
        end = last("", reason=FINISH_REASON_TOOL_CALLS if calls else FINISH_REASON_STOP)
        first.index = end.index = index
        if request.HasField("top_logprobs"):
            first.logprobs.append(_logprob(request.top_logprobs))
            end.logprobs.append(_logprob(request.top_logprobs))
        if request.HasField("prompt_logprobs") and index == 0:
            first.prompt_logprobs.append(TokenLogprob(token=TokenScore(id=1, data=b"a")))
            first.prompt_logprobs.append(_logprob(request.prompt_logprobs))
        if calls:
            first.tool_calls.append(ToolCallDelta(index=0, id="call_1", name="look", arguments="{}"))
        yield from (first, end)


def _logprob(num_top: int) -> TokenLogprob:
    scored = [TokenScore(id=rank, data=_HALF, logprob=-float(rank)) for rank in range(num_top)]
    return TokenLogprob(token=TokenScore(id=7, data=_HALF, logprob=-0.5), top=scored)
