"""Translates text completions between OpenAI's JSON and protobuf; knows no clock, no chance and no sockets."""

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from meshkit.errors import MeshError, Reason
from meshkit.wire import MOST_ANSWERS
from services.gateway.openai.completion import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    Prompt,
)
from services.gateway.translate.generation import to_finish_reason, to_generate_request, to_usage
from services.gateway.translate.head import Head
from services.gateway.translate.scores import score_text, score_value, to_prompt_logprobs
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse, TokenLogprob, TokenPrompt


def to_completion_requests(body: CompletionRequest, head: Head) -> list[GenerateRequest]:
    """OpenAI's request as ours, one for each prompt; MeshError where two fields contradict each other."""
    num_choices = len(body.prompt) * (body.n or 1)
    if num_choices > MOST_ANSWERS:
        message = f"prompt holds {len(body.prompt)} prompts, which makes {num_choices} answers; {MOST_ANSWERS} are most"
        raise MeshError(Reason.INVALID_REQUEST, message, param="prompt")
    return [_to_request(prompt, body, head) for prompt in body.prompt]


def _to_request(prompt: Prompt, body: CompletionRequest, head: Head) -> GenerateRequest:
    request = to_generate_request(body, head, top_logprobs=body.logprobs)
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.tokens.CopyFrom(TokenPrompt(ids=prompt))
    if body.echo and (body.logprobs is not None or not isinstance(prompt, str)):
        # of a prompt that came as ids only the worker knows the text
        request.prompt_logprobs = max(body.logprobs or 0, body.prompt_logprobs or 0)
    return request


def to_completion(answers: Sequence[GenerateResponse], body: CompletionRequest, head: Head) -> Completion:
    """Whole answers as OpenAI's."""
    writer = _ChoiceWriter(body)
    choices = [writer.write(answer) for answer in answers]
    if body.prompt_logprobs is not None:
        for choice in choices:
            tokens = answers[choice["index"] - choice["index"] % (body.n or 1)].prompt_logprobs
            choice["prompt_logprobs"] = to_prompt_logprobs(tokens, body.prompt_logprobs)
    return {**_event(head, choices), "usage": to_usage(answers)}


async def to_completion_chunks(
    pieces: AsyncGenerator[GenerateResponse, None], body: CompletionRequest, head: Head
) -> AsyncGenerator[Completion, None]:
    """The events of streamed answers: texts, of each the last with its finish; at last the usage if asked for."""
    writer = _ChoiceWriter(body)
    ends: list[GenerateResponse] = []
    async with aclosing(pieces):
        async for piece in pieces:
            choice = writer.write(piece)
            if choice["text"] or choice["logprobs"] or choice["finish_reason"]:
                event = _event(head, [choice])
                yield {**event, "usage": None} if body.wants_usage_chunk else event
            if piece.finish_reason:
                ends.append(piece)
    if body.wants_usage_chunk:
        yield {**_event(head, []), "usage": to_usage(ends)}


class _ChoiceWriter:
    """Writes pieces as choices; knows of each answer how much of it is written.

    A prompt that is echoed comes before the first piece of each of its n answers; the first piece of all tells its
    tokens.
    """

    def __init__(self, body: CompletionRequest) -> None:
        self._body = body
        self._prompts: dict[int, Sequence[TokenLogprob]] = {}
        self._offsets: dict[int, _TextOffsets] = {}

    def write(self, piece: GenerateResponse) -> CompletionChoice:
        """What the piece adds to its answer."""
        number = piece.index // (self._body.n or 1)
        prompt = self._prompts[number] = self._prompts.get(number) or piece.prompt_logprobs
        echoes = bool(self._body.echo) and piece.index not in self._offsets
        offsets = self._offsets.setdefault(piece.index, _TextOffsets())
        tokens = [*prompt, *piece.logprobs] if echoes else piece.logprobs
        logprobs = None if self._body.logprobs is None else _to_logprobs(tokens, self._body.logprobs, offsets)
        if logprobs and echoes and prompt:
            logprobs["token_logprobs"][0] = logprobs["top_logprobs"][0] = None
        return {
            "index": piece.index,
            "text": (_prompt_text(self._body.prompt[number], prompt) if echoes else "") + piece.text,
            "logprobs": logprobs,
            "finish_reason": to_finish_reason(piece.finish_reason) if piece.finish_reason else None,
        }


class _TextOffsets:
    """Where in a text its tokens begin, in characters; one that continues a character begins where that does."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def next(self, data: bytes) -> int:
        """Where the next token, of these bytes, begins."""
        start = self._length
        self._length += len(self._decoder.decode(data))
        return start


def _prompt_text(prompt: Prompt, tokens: Sequence[TokenLogprob]) -> str:
    if isinstance(prompt, str):
        return prompt
    return b"".join(each.token.data for each in tokens).decode("utf-8", errors="replace")


def _event(head: Head, choices: list[CompletionChoice]) -> Completion:
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created_s,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": choices,
    }


def _to_logprobs(tokens: Sequence[TokenLogprob], num_top: int, offsets: _TextOffsets) -> CompletionLogprobs | None:
    if not tokens:
        return None
    return {
        "tokens": [score_text(each.token) for each in tokens],
        "token_logprobs": [score_value(each.token) for each in tokens],
        "top_logprobs": [{score_text(top): score_value(top) for top in each.top[:num_top]} for each in tokens],
        "text_offset": [offsets.next(each.token.data) for each in tokens],
    }
