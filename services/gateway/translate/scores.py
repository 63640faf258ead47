"""Decides how a token and its log-probability are spelled in JSON."""

from collections.abc import Sequence
from typing import Final

from services.gateway.openai.scores import PromptLogprob
from zhinao.chat.v1.chat_pb2 import TokenLogprob, TokenScore

_LEAST: Final = -9999.0  # OpenAI's stand-in for minus infinity, which JSON lacks


def score_text(score: TokenScore) -> str:
    """The token as text; bytes that are part of a character only show as U+FFFD."""
    return score.data.decode("utf-8", errors="replace")


def score_value(score: TokenScore) -> float:
    """The natural logarithm of the token's probability, finite."""
    return max(score.logprob, _LEAST)


def to_prompt_logprobs(tokens: Sequence[TokenLogprob], num_top: int | None) -> list[dict[str, PromptLogprob] | None]:
    """The prompt's tokens in vLLM's form: by id, the token itself and the num_top best; null for the first."""
    return [None, *(_by_id(token, num_top or 0) for token in tokens[1:])]


def _by_id(token: TokenLogprob, num_top: int) -> dict[str, PromptLogprob]:
    """rank counts from 1; that of a token outside the best is not known."""
    ranks = {score.id: rank for rank, score in enumerate(token.top, start=1)}
    return {
        str(score.id): {
            "logprob": score_value(score),
            "rank": ranks.get(score.id),
            "decoded_token": score_text(score),
        }
        for score in (token.token, *token.top[:num_top])
    }
