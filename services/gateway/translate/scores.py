"""Decides how a token and its log-probability are spelled in JSON."""

from typing import Final

from zhinao.chat.v1.chat_pb2 import TokenScore

_LEAST: Final = -9999.0  # OpenAI's stand-in for minus infinity, which JSON lacks


def score_text(score: TokenScore) -> str:
    """The token as text; bytes that are part of a character only show as U+FFFD."""
    return score.data.decode("utf-8", errors="replace")


def score_value(score: TokenScore) -> float:
    """The natural logarithm of the token's probability, finite."""
    return max(score.logprob, _LEAST)
