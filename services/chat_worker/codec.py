"""Translates between the protobuf contract and the worker's own types; no other file of the worker knows protobuf."""

import json
from collections.abc import Callable, Sequence
from typing import cast

from google.protobuf.message import DecodeError

from meshkit.errors import MeshError, Reason
from modelkit.conversation import Message, Tool, ToolCall
from services.chat_worker.answers import Contents
from services.chat_worker.engine.generation import Finish, Piece
from services.chat_worker.engine.sampler import Sampled, TokenScore
from services.chat_worker.engine.sequence import FinishReason, Priority, answer_seed
from services.chat_worker.request import (
    CallMode,
    ChatPrompt,
    FormatKind,
    GenerationRequest,
    OutputFormat,
    TextPrompt,
    TokenPrompt,
    ToolUse,
)
from zhinao.chat.v1 import chat_pb2
from zhinao.common.v1 import common_pb2
from zhinao.tokenize.v1 import tokenize_pb2

_ROLES = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
    chat_pb2.ROLE_TOOL: "tool",
}
_CALL_MODES = {
    chat_pb2.ToolChoice.MODE_UNSPECIFIED: CallMode.AUTO,
    chat_pb2.ToolChoice.MODE_NONE: CallMode.NONE,
    chat_pb2.ToolChoice.MODE_AUTO: CallMode.AUTO,
    chat_pb2.ToolChoice.MODE_REQUIRED: CallMode.REQUIRED,
    chat_pb2.ToolChoice.MODE_NAMED: CallMode.NAMED,
}
_FINISH = {FinishReason.STOP: chat_pb2.FINISH_REASON_STOP, FinishReason.LENGTH: chat_pb2.FINISH_REASON_LENGTH}


def decode_request(data: bytes) -> GenerationRequest:
    """Read a serialised GenerateRequest. Raises MeshError INVALID_REQUEST if it is none."""
    try:
        message = chat_pb2.GenerateRequest.FromString(data)
    except DecodeError as error:
        raise MeshError(Reason.INVALID_REQUEST, "the request tensor holds no GenerateRequest") from error
    sampling, stop = message.sampling, message.stop
    return GenerationRequest(
        request_id=message.request_id,
        model=message.model,
        prompt=_decode_prompt(message),
        temperature=sampling.temperature if sampling.HasField("temperature") else None,
        top_p=sampling.top_p if sampling.HasField("top_p") else None,
        top_k=sampling.top_k if sampling.HasField("top_k") else None,
        do_sample=sampling.do_sample if sampling.HasField("do_sample") else None,
        seed=sampling.seed if sampling.HasField("seed") else None,
        max_tokens=stop.max_tokens if stop.HasField("max_tokens") else None,
        stop_texts=tuple(stop.texts),
        stop_token_ids=tuple(stop.token_ids),
        top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
        truncate_prompt=message.truncate_prompt,
        format=_decode_format(message.format),
        n=message.n if message.HasField("n") else 1,
        priority=Priority.BULK if message.priority == chat_pb2.PRIORITY_BULK else Priority.INTERACTIVE,
        tenant=message.tenant,
        timeout_s=message.timeout_s if message.HasField("timeout_s") else None,
        speculate=message.speculate if message.HasField("speculate") else None,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        min_p=sampling.min_p if sampling.HasField("min_p") else None,
        repetition_penalty=sampling.repetition_penalty if sampling.HasField("repetition_penalty") else None,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        bad_token_ids=tuple(sampling.bad_token_ids),
        allowed_token_ids=tuple(sampling.allowed_token_ids),
        min_tokens=stop.min_tokens,
        ignore_eos=stop.ignore_eos,
        generated_token_ids=tuple(message.generated_token_ids),
    )


def encode_piece(
    piece: Piece,
    contents: Contents,
    *,
    model: str,
    seed: int,
    token_bytes: Callable[[int], bytes],
    unused_values: Sequence[str] = (),
) -> bytes:
    """Write one GenerateResponse. contents: what the piece's text holds. unused_values: of the template, to be told."""
    found = contents.found
    message = chat_pb2.GenerateResponse(
        text=found.text,
        reasoning=contents.reasoning,
        token_ids=[token.token_id for token in piece.tokens],
        logprobs=[_encode_logprob(token, token_bytes) for token in piece.tokens if token.score],
        model=model,
        index=piece.index,
        tool_calls=[
            chat_pb2.ToolCallDelta(index=part.index, id=part.id, name=part.name, arguments=part.arguments)
            for part in found.calls
        ],
        prompt_logprobs=[_encode_logprob(token, token_bytes) for token in piece.prompt_scores],
        unused_template_values=unused_values,
    )
    if piece.finish is not None:
        _encode_finish(piece.finish, message)
        if found.num_calls and piece.finish.reason is FinishReason.STOP:
            message.finish_reason = chat_pb2.FINISH_REASON_TOOL_CALLS
        message.usage.reasoning_tokens = contents.reasoning_tokens
        message.seed = answer_seed(seed, piece.index)
    return message.SerializeToString()


def decode_tokenize(data: bytes) -> tuple[ChatPrompt | TextPrompt, str]:
    """Read a serialised TokenizeRequest: what to tokenise, and for which model. Raises MeshError if it is none."""
    try:
        message = tokenize_pb2.TokenizeRequest.FromString(data)
    except DecodeError as error:
        raise MeshError(Reason.INVALID_REQUEST, "the request tensor holds no TokenizeRequest") from error
    if message.HasField("chat"):
        return _decode_chat(message.chat), message.model
    return TextPrompt(message.text, with_prefix=not message.omit_special_tokens), message.model


def encode_tokens(
    ids: Sequence[int],
    *,
    model: str,
    max_model_len: int,
    token_bytes: Callable[[int], bytes],
    unused_values: Sequence[str],
) -> bytes:
    """Write a TokenizeResponse. unused_values: see encode_piece."""
    return tokenize_pb2.TokenizeResponse(
        ids=ids,
        model=model,
        pieces=map(token_bytes, ids),
        max_model_len=max_model_len,
        unused_template_values=unused_values,
    ).SerializeToString()


def decode_detokenize(data: bytes) -> tuple[TokenPrompt, str]:
    """Read a serialised DetokenizeRequest: the ids, and of which model. Raises MeshError if it is none."""
    try:
        message = tokenize_pb2.DetokenizeRequest.FromString(data)
    except DecodeError as error:
        raise MeshError(Reason.INVALID_REQUEST, "the request tensor holds no DetokenizeRequest") from error
    return TokenPrompt(tuple(message.ids)), message.model


def encode_text(text: str, *, model: str) -> bytes:
    """Write a DetokenizeResponse."""
    return tokenize_pb2.DetokenizeResponse(text=text, model=model).SerializeToString()


def _decode_chat(prompt: chat_pb2.ChatPrompt) -> ChatPrompt:
    turns = tuple(_decode_turn(i, turn) for i, turn in enumerate(prompt.messages))
    values = _decode_object(prompt.template_values or "{}", "chat_template_kwargs")
    return ChatPrompt(turns, _decode_tools(prompt), values)


def _decode_prompt(message: chat_pb2.GenerateRequest) -> ChatPrompt | TextPrompt | TokenPrompt:
    match message.WhichOneof("prompt"):
        case "chat":
            return _decode_chat(message.chat)
        case "text":
            return TextPrompt(message.text)
        case "tokens":
            return TokenPrompt(tuple(message.tokens.ids))
        case None:
            raise MeshError(Reason.INVALID_REQUEST, "prompt is missing: set one of chat, text, tokens", param="prompt")


def _decode_turn(index: int, turn: chat_pb2.Message) -> Message:
    if turn.role not in _ROLES:
        known = ", ".join(_ROLES.values())
        raise MeshError(
            Reason.INVALID_REQUEST,
            f"messages[{index}].role is {turn.role}; it must be one of {known}",
            param=f"messages[{index}].role",
        )
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in turn.tool_calls)
    return Message(_ROLES[turn.role], turn.content, calls, turn.tool_call_id)


def _decode_tools(prompt: chat_pb2.ChatPrompt) -> ToolUse:
    choice = prompt.tool_choice
    if choice.mode not in _CALL_MODES:
        raise MeshError(
            Reason.INVALID_REQUEST, f"tool_choice.mode is {choice.mode}, which is unknown", param="tool_choice"
        )
    return ToolUse(
        tools=tuple(_decode_tool(number, tool) for number, tool in enumerate(prompt.tools)),
        mode=_CALL_MODES[choice.mode],
        name=choice.name,
        parallel=prompt.parallel_tool_calls if prompt.HasField("parallel_tool_calls") else True,
    )


def _decode_tool(number: int, tool: chat_pb2.Tool) -> Tool:
    schema = _decode_object(tool.parameters_schema or '{"type": "object"}', f"tools[{number}].function.parameters")
    return Tool(tool.name, tool.description, schema)


def _decode_object(text: str, param: str) -> dict[str, object]:
    try:
        value: object = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # JSON can also spell half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise MeshError(Reason.INVALID_REQUEST, f"{param} is no JSON: {error}", param=param) from error
    if not isinstance(value, dict):
        raise MeshError(Reason.INVALID_REQUEST, f"{param} must be a JSON object", param=param)
    return cast("dict[str, object]", value)


def _decode_format(output: chat_pb2.OutputFormat) -> OutputFormat | None:
    match output.WhichOneof("kind"):
        case None:
            return None
        case "json_object":
            return OutputFormat(FormatKind.JSON_OBJECT)
        case "choice":
            return OutputFormat(FormatKind.CHOICE, tuple(output.choice.texts))
        case kind:
            return OutputFormat(FormatKind(kind), (getattr(output, kind),))


def _encode_finish(finish: Finish, message: chat_pb2.GenerateResponse) -> None:
    message.finish_reason = _FINISH[finish.reason]
    usage = common_pb2.Usage(
        completion_tokens=finish.completion_tokens,
        accepted_draft_tokens=finish.accepted_draft_tokens,
        rejected_draft_tokens=finish.rejected_draft_tokens,
    )
    if message.index == 0:  # the prompt is computed once, whatever the number of answers
        usage.prompt_tokens, usage.cached_tokens = finish.prompt_tokens, finish.cached_tokens
    message.usage.CopyFrom(usage)
    message.timings.CopyFrom(
        common_pb2.Timings(queue_s=finish.queue_s, prefill_s=finish.prefill_s, decode_s=finish.decode_s)
    )


def _encode_logprob(token: Sampled, token_bytes: Callable[[int], bytes]) -> chat_pb2.TokenLogprob:
    def encode(score: TokenScore) -> chat_pb2.TokenScore:
        return chat_pb2.TokenScore(id=score.token_id, data=token_bytes(score.token_id), logprob=score.logprob)

    own = token.score or TokenScore(token.token_id, logprob=0.0)  # the first token of a prompt has none
    return chat_pb2.TokenLogprob(token=encode(own), top=[encode(score) for score in token.top])
