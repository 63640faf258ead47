"""Decides what an embeddings request may hold, and names the shape of its answers."""

from typing import Annotated, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetPydanticSchema, PlainValidator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import CoreSchema, float_schema, list_schema
from typing_extensions import TypedDict

from services.gateway.openai.fields import (
    UINT32_MAX,
    Items,
    RequestBody,
    SentTokenIds,
    Text,
    check_unicode,
    example,
    is_token_ids,
    only,
    renamed,
)


def _to_inputs(value: object) -> object:
    """Wrap a single text or list of token ids."""
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [items] if items and isinstance(items[0], int) else items
    return [value]


def _to_input(value: object) -> str | list[int]:
    if isinstance(value, str) and value:
        return check_unicode(value)
    if is_token_ids(value):
        return value
    kind = "input_value" if value == "" else "input_type"
    raise PydanticCustomError(kind, "must be a text that is not empty, or a list of at least one token id")


def _to_truncation(value: object) -> object:
    """Accept TEI's yes and no, and Cohere's and NVIDIA's capitals and `NONE`."""
    if isinstance(value, bool):
        return "end" if value else "error"
    if isinstance(value, str):
        return "error" if value.lower() == "none" else value.lower()
    return value


_SentInput = Annotated[str, Field(min_length=1)] | SentTokenIds
Inputs = Annotated[
    Items[Annotated[str | list[int], PlainValidator(_to_input, json_schema_input_type=_SentInput)]],
    Field(min_length=1),
    BeforeValidator(_to_inputs, json_schema_input_type=_SentInput | Annotated[list[_SentInput], Field(min_length=1)]),
]
InputType = Literal["query", "passage", "document", "search_query", "search_document"]
Truncation = Literal["error", "end", "start"]
_SentTruncation = Truncation | Literal["none", "END", "START", "NONE"] | bool | None
TruncationField = Annotated[Truncation | None, BeforeValidator(_to_truncation, json_schema_input_type=_SentTruncation)]
Encoding = Literal["float", "base64"]


class EmbeddingRequest(RequestBody):
    """Body of POST /v1/embeddings.

    Source: OpenAI's API reference; input_type and truncate are Cohere's and NVIDIA's; instruction and space are ours.
    """

    model_config = example({"model": "zhinao-embed", "input": ["the sky", "blue"], "input_type": "query"})

    input: Inputs
    encoding_format: Encoding | None = None
    dimensions: int | None = Field(default=None, ge=1, le=UINT32_MAX)
    input_type: InputType | None = None
    truncate: TruncationField = None
    instruction: Text | None = None
    space: Text | None = None

    # What other servers would make other vectors of.
    task: Annotated[object, renamed("input_type")] = None
    truncate_prompt_tokens: Annotated[object, renamed("truncate")] = None
    late_chunking: Annotated[object, only(False)] = None
    normalized: Annotated[object, only(True)] = None


class EmbeddingUsage(TypedDict):
    """Tokens that the request cost, and how many were cut off each input, in the order of the inputs."""

    prompt_tokens: int
    total_tokens: int
    truncated_tokens: list[int]


def _as_list(_source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
    return list_schema(float_schema())


Vector = Annotated[NDArray[np.float32], GetPydanticSchema(_as_list)]


class EmbeddingBody(TypedDict):
    """One vector: its components, or the base64 of them as little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: Vector | str


class EmbeddingList(TypedDict):
    """Answer to an embeddings request. space names what the vectors may be compared with."""

    object: Literal["list"]
    data: list[EmbeddingBody]
    model: str
    usage: EmbeddingUsage
    space: str
