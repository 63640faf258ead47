"""Decides what a rerank request in Cohere's and Jina's form may hold, and names the shape of its answers."""

from typing import Annotated, Literal, NotRequired, cast

import orjson
from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from services.gateway.openai.error import ErrorBody
from services.gateway.openai.fields import UINT32_MAX, Items, RequestBody, Text, check_unicode, example, only, renamed

Document = str | dict[str, object]
Query = Annotated[Text, Field(min_length=1)]


def _to_document(value: object) -> Document:
    """Accept a text, or an object whose text is under `text`, and which can be sent back."""
    if isinstance(value, str):
        return check_unicode(value)
    document = cast("dict[str, object]", value if isinstance(value, dict) else {})
    if not isinstance(document.get("text"), str):
        raise PydanticCustomError("document_type", "must be a text, or an object with a text under the key text")
    try:
        orjson.dumps(document)
    except TypeError as error:
        raise PydanticCustomError("document", "holds a number or text that JSON cannot carry back") from error
    return document


class TextDocument(TypedDict):
    """A document that may hold more than its text, e.g. an id that comes back with it."""

    text: str


_Document = Annotated[Document, PlainValidator(_to_document, json_schema_input_type=str | TextDocument)]


class RerankRequest(RequestBody):
    """Body of POST /v1/rerank and /v2/rerank. Source: Cohere's and Jina's API references."""

    model_config = example(
        {"query": "What colour is the sky?", "documents": ["Grass is green.", "It is blue."], "top_n": 1}
    )

    query: Query
    documents: Items[_Document] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    max_tokens_per_doc: int | None = Field(default=None, ge=1, le=UINT32_MAX)
    max_chunks_per_doc: Annotated[object, only(None)] = None  # documents are scored whole
    rank_fields: Annotated[object, only(["text"])] = None
    top_k: Annotated[object, renamed("top_n")] = None  # Voyage's


class RerankErrorBody(ErrorBody):
    """A failure, with its sentence also where Cohere's clients (message) and Jina's (detail) look for it."""

    message: str
    detail: str


class RerankUsage(TypedDict):
    """Tokens of all pairs, and how many were cut off each document, in the order of the documents."""

    prompt_tokens: int
    total_tokens: int
    truncated_tokens: list[int]


class ApiVersion(TypedDict):
    """Which of Cohere's two forms was asked for; they differ in nothing else."""

    version: str


class BilledUnits(TypedDict):
    """What Cohere would bill: a unit for each 100 documents."""

    search_units: int


class MetaTokens(TypedDict):
    """RerankUsage in Cohere's words."""

    input_tokens: int
    output_tokens: int


class Meta(TypedDict):
    """What Cohere's clients read beside the results."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: MetaTokens


class RerankResult(TypedDict):
    """One document of the request, by its index there. relevance_score: 0 to 1; raw_score: what the model said."""

    index: int
    relevance_score: float
    raw_score: float
    document: NotRequired[dict[str, object]]


class RerankAnswer(TypedDict):
    """The best documents, best first, ties in the request's order. threshold: of relevance_score, if one is known."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RerankResult]
    threshold: NotRequired[float]
    usage: RerankUsage
    meta: Meta
