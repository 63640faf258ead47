"""Names the one shape of every error body."""

from typing_extensions import TypedDict


class ErrorDetail(TypedDict):
    """What went wrong; param is the request field at fault, as a dotted path."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """Body of every answer that is not a success."""

    error: ErrorDetail
