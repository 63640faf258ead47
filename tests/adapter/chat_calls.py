"""Speaks to a chat adapter as Triton does, and says what the plain network would have answered."""

import time
from pathlib import Path
from typing import Any

import torch

from meshkit.errors import MeshError
from meshkit.wire import decode_error
from modelkit.attention import CausalAttention
from modelkit.checkpoint import load_decoder
from modelkit.tokenizer import load_tokenizer
from tests.fakes import pb_utils
from zhinao.chat.v1 import chat_pb2

USER, SYSTEM = chat_pb2.ROLE_USER, chat_pb2.ROLE_SYSTEM


def chat(*turns: tuple[chat_pb2.Role, str], **fields: Any) -> chat_pb2.GenerateRequest:
    messages = [chat_pb2.Message(role=role, content=content) for role, content in turns]
    return chat_pb2.GenerateRequest(chat=chat_pb2.ChatPrompt(messages=messages), **fields)


def greedy(max_tokens: int) -> dict[str, Any]:
    return {
        "sampling": chat_pb2.SamplingParams(temperature=0),
        "stop": chat_pb2.StopConditions(max_tokens=max_tokens),
    }


def send(adapter: Any, request: chat_pb2.GenerateRequest) -> pb_utils.ResponseSender:
    call = pb_utils.InferenceRequest(request.SerializeToString())
    adapter.execute([call])
    return call.sender


def answer(adapter: Any, request: chat_pb2.GenerateRequest) -> list[chat_pb2.GenerateResponse]:
    data, error = send(adapter, request).collect()
    assert error is None, error and error.message
    return [chat_pb2.GenerateResponse.FromString(piece) for piece in data]


def tokens_of(pieces: list[chat_pb2.GenerateResponse]) -> list[int]:
    """The tokens of an answer, however they came to be cut into pieces."""
    return [token_id for piece in pieces for token_id in piece.token_ids]


def failure(adapter: Any, request: chat_pb2.GenerateRequest) -> MeshError:
    _, error = send(adapter, request).collect()
    assert error is not None, "the request was answered"
    decoded = decode_error(error.message)
    assert decoded is not None
    assert error.code == getattr(pb_utils.TritonError, str(decoded.row.triton))
    return decoded


def plain_greedy(folder: Path, prompt_ids: list[int], count: int) -> list[int]:
    """What the network says with no cache, no batch and no engine, until an end token."""
    decoder, tokenizer = load_decoder(folder), load_tokenizer(folder)
    ends = {tokenizer.control_ids[text] for text in ("<eod>", "<|im_start|>", "<|im_end|>")}
    ids = list(prompt_ids)
    with torch.inference_mode():
        while len(ids) < len(prompt_ids) + count:
            logits = decoder(torch.tensor(ids), torch.arange(len(ids)), CausalAttention([len(ids)]))
            token = int(logits[-1, : tokenizer.vocab_size].argmax())
            if token in ends:
                break
            ids.append(token)
    return ids[len(prompt_ids) :]


def zhinao_ids(folder: Path, *turns: tuple[str, str]) -> list[int]:
    """The conversation laid out by hand, as 360Zhinao's model card shows it."""
    tokenizer = load_tokenizer(folder)
    start, end = tokenizer.control_ids["<|im_start|>"], tokenizer.control_ids["<|im_end|>"]
    newline = tokenizer.encode("\n")
    ids: list[int] = []
    for role, content in turns:
        ids += [start, *tokenizer.encode(role), *newline, *tokenizer.encode(content), end, *newline]
    return [*ids, start, *tokenizer.encode("assistant"), *newline]


def wait_for(name: str, value: float) -> bool:
    """Metrics are published a little later than the pieces they count."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        metric = pb_utils.MetricFamily.metrics.get(name)
        if metric is not None and metric.value == value:
            return True
        time.sleep(0.01)
    return False
