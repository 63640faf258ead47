"""Translates the form that an answer must have into protobuf."""

import json

from meshkit.errors import MeshError, Reason
from services.gateway.openai.formats import ResponseFormat, StructuredOutputs
from zhinao.chat.v1.chat_pb2 import Choice, JsonObject, OutputFormat


def to_output_format(response: ResponseFormat | None, structured: StructuredOutputs | None) -> OutputFormat | None:
    """The form asked for, in OpenAI's way or in vLLM's; None for free text. MeshError if it is asked for in both."""
    if response is None or response.type == "text":
        return None if structured is None else _from_structured(structured)
    if structured is not None:
        message = f"structured_outputs contradicts response_format, whose type is {response.type}"
        raise MeshError(Reason.INVALID_REQUEST, message, param="structured_outputs")
    if response.json_schema is None or response.type == "json_object":
        return OutputFormat(json_object=JsonObject())
    schema = to_json(response.json_schema.json_schema, "response_format.json_schema.schema")
    return OutputFormat(json_schema=schema)


def to_json(value: object, param: str) -> str:
    """The value as JSON text; MeshError naming the field where JSON or protobuf cannot spell it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (RecursionError, ValueError) as error:
        message = f"{param} is nested too deep, or holds a number or text that JSON cannot spell"
        raise MeshError(Reason.INVALID_REQUEST, message, param=param) from error
    return text


def _from_structured(structured: StructuredOutputs) -> OutputFormat:
    if structured.choice is not None:
        return OutputFormat(choice=Choice(texts=structured.choice))
    if structured.regex is not None:
        return OutputFormat(regex=structured.regex)
    if structured.grammar is not None:
        return OutputFormat(grammar=structured.grammar)
    if structured.json_schema is None:
        return OutputFormat(json_object=JsonObject())
    schema = structured.json_schema
    return OutputFormat(json_schema=schema if isinstance(schema, str) else to_json(schema, "structured_outputs.json"))
