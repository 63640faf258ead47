"""Translates text completions between OpenAI's JSON and protobuf; knows no clock, no chance and no sockets."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import accumulate

from services.gateway.openai.completion import Completion, CompletionLogprobs, CompletionRequest
from services.gateway.translate.generation import to_finish_reason, to_generate_request, to_usage
from services.gateway.translate.head import Head
from services.gateway.translate.scores import score_text, score_value
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse, TokenLogprob, TokenPrompt


def to_completion_request(body: CompletionRequest, head: Head) -> GenerateRequest:
    """OpenAI's request as ours; MeshError where two fields contradict each other."""
    request = to_generate_request(body, head, top_logprobs=body.logprobs)
    if isinstance(body.prompt, str):
        request.text = body.prompt
    else:
        request.tokens.CopyFrom(TokenPrompt(ids=body.prompt))
    return request


def to_completion(answer: GenerateResponse, head: Head) -> Completion:
    """A whole answer as OpenAI's."""
    return {**_event(answer, head, text_offset=0), "usage": to_usage(answer.usage)}


async def to_completion_chunks(
    pieces: AsyncGenerator[GenerateResponse, None], head: Head, *, with_usage: bool
) -> AsyncGenerator[Completion, None]:
    """The events of a streamed answer: texts, the last one with its finish, and the usage if asked for."""
    text_offset = 0
    async with aclosing(pieces):
        async for piece in pieces:
            event = _event(piece, head, text_offset=text_offset)
            if piece.text or piece.logprobs or piece.finish_reason:
                yield {**event, "usage": None} if with_usage else event
            text_offset += len(piece.text)
            if piece.finish_reason and with_usage:
                yield {**event, "choices": [], "usage": to_usage(piece.usage)}


def _event(piece: GenerateResponse, head: Head, *, text_offset: int) -> Completion:
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created_s,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": [
            {
                "index": 0,
                "text": piece.text,
                "logprobs": _to_logprobs(piece.logprobs, text_offset),
                "finish_reason": to_finish_reason(piece.finish_reason) if piece.finish_reason else None,
            }
        ],
    }


def _to_logprobs(tokens: Sequence[TokenLogprob], text_offset: int) -> CompletionLogprobs | None:
    if not tokens:
        return None
    texts = [score_text(each.token) for each in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [score_value(each.token) for each in tokens],
        "top_logprobs": [{score_text(other): score_value(other) for other in each.top} for each in tokens],
        "text_offset": list(accumulate(map(len, texts[:-1]), initial=text_offset)),
    }
