"""Decides what a score request in vLLM's form may hold, and names the shape of its answer."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from services.gateway.openai.fields import UINT32_MAX, RequestBody, TextOrTexts, example, renamed
from services.gateway.search.rerank import RerankUsage

Texts = Annotated[TextOrTexts, Field(min_length=1)]


class ScoreRequest(RequestBody):
    """Body of POST /v1/score and /score: one text against one or many, or two lists of one length in pairs."""

    model_config = example({"text_1": "What colour is the sky?", "text_2": ["Grass is green.", "It is blue."]})

    text_1: Texts
    text_2: Texts
    max_tokens_per_doc: int | None = Field(default=None, ge=1, le=UINT32_MAX)
    truncate_prompt_tokens: Annotated[object, renamed("max_tokens_per_doc")] = None


class ScoreBody(TypedDict):
    """The relevance of one pair, 0 to 1."""

    object: Literal["score"]
    index: int
    score: float


class ScoreList(TypedDict):
    """Answer to a score request, in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreBody]
    usage: RerankUsage
