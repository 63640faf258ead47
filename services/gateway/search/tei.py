"""Decides what requests in the form of text-embeddings-inference may hold, and names the shape of its answers."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from services.gateway.openai.embeddings import Inputs, TruncationField
from services.gateway.openai.error import ErrorDetail
from services.gateway.openai.fields import UINT32_MAX, Items, RequestBody, Text, example, only
from services.gateway.search.rerank import Query


class TeiRerankRequest(RequestBody):
    """Body of POST /rerank. A text that is too long loses its end, unless truncate is false."""

    model_config = example({"query": "What colour is the sky?", "texts": ["Grass is green.", "It is blue."]})

    query: Query
    texts: Items[Text] = Field(min_length=1)
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: bool | None = None
    truncation_direction: Annotated[object, only("right", "Right")] = None


class TeiErrorBody(ErrorDetail):
    """A failure as text-embeddings-inference spells it, beside the fields of OpenAI's. error: the sentence."""

    error: str
    error_type: Literal["overloaded", "unhealthy", "validation", "backend"]


class TeiRank(TypedDict):
    """One text of the request. score: 0 to 1, or raw. truncated_tokens is told where some were cut off."""

    index: int
    score: float
    text: NotRequired[str]
    truncated_tokens: NotRequired[int]


class TeiEmbedRequest(RequestBody):
    """Body of POST /embed, which is answered by the bare vectors."""

    model_config = example({"inputs": ["the sky", "blue"]})

    inputs: Inputs
    truncate: TruncationField = None
    truncation_direction: Literal["left", "Left", "right", "Right"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=UINT32_MAX)
    prompt_name: Literal["query", "passage", "document"] | None = None
    normalize: Annotated[object, only(True)] = None
