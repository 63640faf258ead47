"""Names the shape in which OpenAI reports the tokens of a request."""

from typing_extensions import TypedDict


class PromptDetails(TypedDict):
    """cached_tokens: prompt tokens that were not computed again."""

    cached_tokens: int


class CompletionDetails(TypedDict):
    """Tokens of the model's thinking, and tokens that the worker guessed ahead: those that held, and those thrown away.

    Only the last are no part of the answer.
    """

    reasoning_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class UsageBody(TypedDict):
    """Tokens that one request cost, all its answers together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
