"""Translates between the protobuf contract and the worker's own types; no other file of the worker knows protobuf."""

from collections.abc import Callable

from google.protobuf.message import DecodeError

from meshkit.errors import MeshError, Reason
from modelkit.conversation import Message
from services.chat_worker.engine.generation import Finish, Piece
from services.chat_worker.engine.sampler import Sampled, TokenScore
from services.chat_worker.engine.sequence import FinishReason
from services.chat_worker.request import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from zhinao.chat.v1 import chat_pb2
from zhinao.common.v1 import common_pb2

_ROLES = {chat_pb2.ROLE_SYSTEM: "system", chat_pb2.ROLE_USER: "user", chat_pb2.ROLE_ASSISTANT: "assistant"}
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
    )


def encode_piece(piece: Piece, *, model: str, seed: int, token_bytes: Callable[[int], bytes]) -> bytes:
    """Write one GenerateResponse."""
    message = chat_pb2.GenerateResponse(
        text=piece.text,
        token_ids=[token.token_id for token in piece.tokens],
        logprobs=[_encode_logprob(token, token_bytes) for token in piece.tokens if token.score],
        model=model,
        index=piece.index,
        prompt_logprobs=[_encode_logprob(token, token_bytes) for token in piece.prompt_scores],
    )
    if piece.finish is not None:
        _encode_finish(piece.finish, message)
        message.seed = seed
    return message.SerializeToString()


def _decode_prompt(message: chat_pb2.GenerateRequest) -> ChatPrompt | TextPrompt | TokenPrompt:
    match message.WhichOneof("prompt"):
        case "chat":
            return ChatPrompt(tuple(_decode_turn(i, turn) for i, turn in enumerate(message.chat.messages)))
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
    return Message(_ROLES[turn.role], turn.content)


def _encode_finish(finish: Finish, message: chat_pb2.GenerateResponse) -> None:
    message.finish_reason = _FINISH[finish.reason]
    message.usage.CopyFrom(
        common_pb2.Usage(prompt_tokens=finish.prompt_tokens, completion_tokens=finish.completion_tokens)
    )
    message.timings.CopyFrom(
        common_pb2.Timings(queue_s=finish.queue_s, prefill_s=finish.prefill_s, decode_s=finish.decode_s)
    )


def _encode_logprob(token: Sampled | None, token_bytes: Callable[[int], bytes]) -> chat_pb2.TokenLogprob:
    def encode(score: TokenScore) -> chat_pb2.TokenScore:
        return chat_pb2.TokenScore(id=score.token_id, data=token_bytes(score.token_id), logprob=score.logprob)

    if token is None or token.score is None:
        return chat_pb2.TokenLogprob()
    return chat_pb2.TokenLogprob(token=encode(token.score), top=[encode(score) for score in token.top])
