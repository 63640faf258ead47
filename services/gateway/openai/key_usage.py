"""Names the shape in which a key's usage is told; it is ours, in the words of OpenAI's lists."""

from typing import Literal

from typing_extensions import TypedDict


class DayUsage(TypedDict):
    """What was used of one model on one day (UTC, as YYYY-MM-DD)."""

    day: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class KeyUsage(TypedDict):
    """Answer to GET /v1/usage. key: its name."""

    object: Literal["list"]
    key: str
    tenant: str
    data: list[DayUsage]
