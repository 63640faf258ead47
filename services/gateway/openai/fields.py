"""Says what all request bodies share, and which values a field may hold beyond its type.

Each failure reads on after the field's name.
"""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Annotated, Final, Self, TypeGuard, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from services.gateway.call import CURRENT, no_effect

UNSUPPORTED: Final = "unsupported_parameter"  # error type of a value that OpenAI allows and this mesh does not
UINT32_MAX: Final = 2**32 - 1


def check_unicode(value: str) -> str:
    """The text itself, if UTF-8 and protobuf can spell it; JSON can also spell a lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "text_unicode", "is not valid Unicode: lone surrogate at character {position}", {"position": error.start}
        ) from error
    return value


def is_token_ids(value: object) -> TypeGuard[list[int]]:
    """Whether it is a list of at least one number that a token id can be."""
    if not isinstance(value, list) or set(map(type, cast("list[object]", value))) != {int}:
        return False
    ids = cast("list[int]", value)
    return min(ids) >= 0 and max(ids) <= UINT32_MAX


def _to_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


_Item = TypeVar("_Item")

Items = Annotated[list[_Item], Field(fail_fast=True)]  # else what is wrong with each of a million is noted, to tell one
Text = Annotated[str, AfterValidator(check_unicode)]
SentTokenIds = Annotated[list[Annotated[int, Field(ge=0, le=UINT32_MAX)]], Field(min_length=1)]  # for the document
TextOrTexts = Annotated[Items[Text], BeforeValidator(_to_list, json_schema_input_type=str | list[str])]


class Part(BaseModel):
    """An object in a request. Null means absent everywhere; fields without effect are kept in model_extra."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    def ignored(self, path: str = "") -> Generator[str]:
        """The fields without effect that it holds, as a client would write them, e.g. `messages[0].name`."""
        yield from (f"{path}{name}" for name, value in (self.model_extra or {}).items() if value is not None)
        for name, value in vars(self).items():  # by far the most are None
            if isinstance(value, Part):
                yield from value.ignored(f"{path}{self._spelled(name)}.")
            elif isinstance(value, list):
                parts = cast("list[object]", value)
                for index, part in enumerate(parts if parts and isinstance(parts[0], Part) else ()):
                    yield from cast("Part", part).ignored(f"{path}{self._spelled(name)}[{index}].")

    def _spelled(self, name: str) -> str:
        return type(self).model_fields[name].alias or name


def example(body: dict[str, JsonValue], *, streamed: bool = False) -> ConfigDict:
    """Configuration of a body of which the OpenAPI document shows this one. streamed: and the same with a stream."""
    return ConfigDict(json_schema_extra={"examples": [body, {**body, "stream": True}] if streamed else [body]})


class RequestBody(Part):
    """What every request has. strict: refuse fields without effect, which a key may ask for as well."""

    model: Text | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        call = CURRENT.get(None)
        if call is not None and self.strict:
            call.strict = True
        if self.strict or (call is not None and call.strict):
            for name in self.ignored():
                raise no_effect(name)
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Restriction:
    """A check of a field's value, and what the OpenAPI document says of the values that pass it."""

    check: Callable[[object], object]
    schema: dict[str, object]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """How pydantic is told of the check: it comes after that of the type."""
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, object]:
        """How pydantic is told of the values."""
        return self.schema


def only(*allowed: object) -> Restriction:
    """Admit null and these values; anything else is a feature that is not there, said plainly."""
    values = " or ".join(map(json.dumps, allowed))

    def is_same(value: object, other: object) -> bool:
        return value == other and isinstance(value, bool) is isinstance(other, bool)  # to Python 0 is False

    def check(value: object) -> object:
        if value is None or any(is_same(value, each) for each in allowed):
            return value
        raise PydanticCustomError(
            UNSUPPORTED, "is not supported yet; leave it out or send {values}", {"values": values}
        )

    description = f"Other values are not supported: leave it out, or send {values}."
    choices = [_same(each) for each in (None, *(each for each in allowed if each is not None))]
    return Restriction(check, {"anyOf": choices, "description": description})


def _same(value: object) -> dict[str, object]:
    """A schema of this value alone; it names the type, as what generates clients has it."""
    if isinstance(value, list):
        items = [_same(each) for each in cast("list[object]", value)]
        return {"type": "array", "minItems": len(items), "maxItems": len(items), "items": items[0] if items else {}}
    if isinstance(value, dict):
        return {"type": "object", "maxProperties": 0}
    names: dict[type, str] = {bool: "boolean", int: "integer", str: "string", type(None): "null"}
    return {"type": names[type(value)]} | ({} if value is None else {"const": value})


def renamed(name: str) -> Restriction:
    """Refuse what other servers call by another name; to ignore it would be to answer something else."""

    def check(value: object) -> object:
        if value is None:
            return None
        raise PydanticCustomError(UNSUPPORTED, "has another name here; send {name}", {"name": name})

    return Restriction(check, {"anyOf": [_same(None)], "description": f"It has another name here: send `{name}`."})
