"""Names the shape in which vLLM reports the log-probabilities of a prompt."""

from typing_extensions import TypedDict


class PromptLogprob(TypedDict):
    """One token at one place of the prompt; rank counts from 1, null where it is not known."""

    logprob: float
    rank: int | None
    decoded_token: str
