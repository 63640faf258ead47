"""Names the shape in which OpenAI lists models."""

from typing import Literal

from typing_extensions import TypedDict


class ModelBody(TypedDict):
    """One served model; created is when this gateway started, in Unix seconds."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """All served models."""

    object: Literal["list"]
    data: list[ModelBody]
