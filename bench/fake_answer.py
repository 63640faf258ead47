"""Says what the pretended engine of bench.gateway answers; knows no protocol."""

from typing import Final

from zhinao.chat.v1.chat_pb2 import FINISH_REASON_STOP, GenerateResponse
from zhinao.common.v1.common_pb2 import Usage

MODEL: Final = "fake"
NUM_TOKENS: Final = 8


def payloads() -> list[bytes]:
    """The answer token by token."""
    pieces = [GenerateResponse(text=" word", token_ids=[7]) for _ in range(NUM_TOKENS)]
    pieces[-1].finish_reason = FINISH_REASON_STOP
    pieces[-1].usage.CopyFrom(Usage(prompt_tokens=9, completion_tokens=NUM_TOKENS))
    return [piece.SerializeToString() for piece in pieces]
