"""Names the shape in which OpenAI lists models."""

from typing import Literal

from typing_extensions import TypedDict

from services.gateway.catalog import Kind


class ModelBody(TypedDict):
    """One served model; created is when this gateway started, in Unix seconds. kind: our own addition."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Kind


class ModelList(TypedDict):
    """All served models."""

    object: Literal["list"]
    data: list[ModelBody]
