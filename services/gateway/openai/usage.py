"""Names the shape in which OpenAI reports the tokens of a request."""

from typing import TypedDict


class UsageBody(TypedDict):
    """Tokens that one request cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
