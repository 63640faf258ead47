"""Decides how a request may name the form that its answer must have."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from services.gateway.openai.fields import Items, Part, Text, only

JsonObject = dict[str, object]
_KINDS: Final = ("json", "regex", "choice", "grammar", "json_object")


class JsonSchema(Part):
    """A named schema. Answers keep to it whether or not strict is set; name and description say nothing to a model."""

    name: Text | None = None
    description: Text | None = None
    json_schema: JsonObject = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Part):
    """OpenAI's way: free text, any JSON object, or JSON that validates against a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise PydanticCustomError("json_schema", "must hold json_schema, as its type is json_schema")
        return self


class StructuredOutputs(Part):
    """vLLM's way: exactly one of these. Source: vLLM's documentation, structured outputs."""

    json_schema: JsonObject | Text | None = Field(default=None, alias="json")
    regex: Text | None = None
    choice: Annotated[Items[Text], Field(min_length=1, max_length=1000)] | None = None
    grammar: Text | None = None
    json_object: bool | None = None
    whitespace_pattern: Annotated[object, only(None)] = None
    structural_tag: Annotated[object, only(None)] = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        fields = (self.json_schema, self.regex, self.choice, self.grammar, self.json_object or None)
        if (count := sum(field is not None for field in fields)) != 1:
            kinds = ", ".join(_KINDS)
            raise PydanticCustomError(
                "structured_outputs",
                "must hold exactly one of {kinds}; it holds {count}",
                {"kinds": kinds, "count": count},
            )
        return self
