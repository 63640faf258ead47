"""Translates chat completions between OpenAI's JSON and protobuf; knows no clock, no chance and no sockets."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from meshkit.errors import MeshError, Reason
from services.gateway.openai.chat import (
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    ChatCompletionRequest,
    ChatLogprobs,
    ChatTokenLogprob,
    Delta,
    TopLogprob,
)
from services.gateway.openai.generation import FinishReasonWord
from services.gateway.openai.messages import Message
from services.gateway.openai.tools import ToolChoice, ToolDefinition
from services.gateway.translate.formats import to_json
from services.gateway.translate.generation import to_finish_reason, to_generate_request, to_usage
from services.gateway.translate.head import Head
from services.gateway.translate.scores import score_text, score_value, to_prompt_logprobs
from services.gateway.translate.tools import to_call_deltas, to_calls, to_made_calls, to_tool_choice, to_tools
from zhinao.chat.v1 import chat_pb2
from zhinao.chat.v1.chat_pb2 import ChatPrompt, GenerateRequest, GenerateResponse, TokenLogprob, TokenScore

_ROLES: Final = {
    "system": chat_pb2.ROLE_SYSTEM,
    "developer": chat_pb2.ROLE_SYSTEM,  # OpenAI's newer word for the same
    "user": chat_pb2.ROLE_USER,
    "assistant": chat_pb2.ROLE_ASSISTANT,
    "tool": chat_pb2.ROLE_TOOL,
}


def to_chat_request(body: ChatCompletionRequest, head: Head) -> GenerateRequest:
    """OpenAI's request as ours; MeshError where two fields contradict each other."""
    request = to_generate_request(body, head, top_logprobs=_top_logprobs(body))
    tools = body.tools or ()
    with_conversation(request, body.messages, tools, body.tool_choice, parallel=body.parallel_tool_calls)
    request.chat.template_values = to_template_values(body.chat_template_kwargs)
    return request


def with_conversation(
    request: GenerateRequest,
    messages: Sequence[Message],
    tools: Sequence[ToolDefinition],
    choice: ToolChoice | None,
    *,
    parallel: bool | None,
) -> GenerateRequest:
    """The request with its prompt. parallel: whether one answer may hold several calls."""
    prompt = to_chat_prompt(messages, tools)
    if (tool_choice := to_tool_choice(choice)) is not None:
        prompt.tool_choice.CopyFrom(tool_choice)
    if parallel is not None:
        prompt.parallel_tool_calls = parallel
    request.chat.CopyFrom(prompt)
    return request


def to_chat_prompt(messages: Sequence[Message], tools: Sequence[ToolDefinition]) -> ChatPrompt:
    """A conversation and the functions that the model is told of."""
    return ChatPrompt(messages=[_to_message(message) for message in messages], tools=to_tools(tools))


def to_template_values(values: Mapping[str, object] | None) -> str:
    """Variables of a chat template; what they may be is the template's to judge."""
    return to_json(values, "chat_template_kwargs") if values else ""


def to_chat_completion(answers: Sequence[GenerateResponse], body: ChatCompletionRequest, head: Head) -> ChatCompletion:
    """Whole answers as OpenAI's."""
    completion: ChatCompletion = {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created_s,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": [
            {
                "index": answer.index,
                "message": _to_answer(answer),
                "logprobs": _to_logprobs(answer.logprobs),
                "finish_reason": to_finish_reason(answer.finish_reason),
            }
            for answer in answers
        ],
        "usage": to_usage(answers),
    }
    if body.prompt_logprobs is not None:
        completion["prompt_logprobs"] = to_prompt_logprobs(answers[0].prompt_logprobs, body.prompt_logprobs)
    return completion


async def to_chat_chunks(
    pieces: AsyncGenerator[GenerateResponse, None], head: Head, *, with_usage: bool
) -> AsyncGenerator[ChatChunk, None]:
    """The events of streamed answers: of each role, texts, finish; at last the usage if asked for.

    The first event waits for the first piece, so that a failure before it can still choose the HTTP status.
    """
    blank = _blank_chunk(head, with_usage=with_usage)
    begun: set[int] = set()
    ends: list[GenerateResponse] = []
    async with aclosing(pieces):
        async for piece in pieces:
            if piece.index not in begun:
                begun.add(piece.index)
                yield _chunk(blank, piece.index, {"role": "assistant", "content": ""})
            if piece.text or piece.reasoning or piece.logprobs or piece.tool_calls:
                yield _chunk(blank, piece.index, _to_delta(piece), logprobs=_to_logprobs(piece.logprobs))
            if piece.finish_reason:
                ends.append(piece)
                yield _chunk(blank, piece.index, {}, finish_reason=to_finish_reason(piece.finish_reason))
    if with_usage:
        yield {**blank, "usage": to_usage(ends)}


def _top_logprobs(body: ChatCompletionRequest) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs is not None:
        message = f"top_logprobs is {body.top_logprobs}, which is only allowed when logprobs is true"
        raise MeshError(Reason.INVALID_REQUEST, message, param="top_logprobs")
    return None


def _to_message(message: Message) -> chat_pb2.Message:
    return chat_pb2.Message(
        role=_ROLES[message.role],
        content="".join(part.text for part in message.content),
        tool_calls=to_made_calls(message.tool_calls or ()),
        tool_call_id=message.tool_call_id or "",
    )


def _to_answer(answer: GenerateResponse) -> AssistantMessage:
    has_more = answer.reasoning or answer.tool_calls
    content = None if has_more and not answer.text else answer.text
    message: AssistantMessage = {"role": "assistant", "content": content, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = to_calls(answer.tool_calls)
    return message


def _to_delta(piece: GenerateResponse) -> Delta:
    delta: Delta = {}
    if piece.reasoning:
        delta["reasoning_content"] = piece.reasoning
    if piece.text or not (piece.reasoning or piece.tool_calls):
        delta["content"] = piece.text
    if piece.tool_calls:
        delta["tool_calls"] = to_call_deltas(piece.tool_calls)
    return delta


def _blank_chunk(head: Head, *, with_usage: bool) -> ChatChunk:
    chunk: ChatChunk = {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created_s,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": [],
    }
    if with_usage:
        chunk["usage"] = None
    return chunk


def _chunk(
    blank: ChatChunk,
    index: int,
    delta: Delta,
    *,
    logprobs: ChatLogprobs | None = None,
    finish_reason: FinishReasonWord | None = None,
) -> ChatChunk:
    return {
        **blank,
        "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}],
    }


def _to_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
    if not tokens:
        return None
    content: list[ChatTokenLogprob] = [
        {**_to_score(each.token), "top_logprobs": [_to_score(other) for other in each.top]} for each in tokens
    ]
    return {"content": content, "refusal": None}


def _to_score(score: TokenScore) -> TopLogprob:
    return {"token": score_text(score), "logprob": score_value(score), "bytes": list(score.data)}
