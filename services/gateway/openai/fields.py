"""Says what all request bodies share, and which values a field may hold beyond its type.

Each failure reads on after the field's name.
"""

import json
from typing import Annotated, Final, TypeGuard, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

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


Text = Annotated[str, AfterValidator(check_unicode)]
TextOrTexts = Annotated[list[Text], BeforeValidator(_to_list)]


class RequestBody(BaseModel):
    """What every request has. Null means absent everywhere; unknown fields are kept in model_extra."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: Text | None = None


def only(*allowed: object) -> AfterValidator:
    """Admit null and these values; anything else is a feature that is not there, said plainly."""

    def check(value: object) -> object:
        if value is None or value in allowed:
            return value
        values = " or ".join(map(json.dumps, allowed))
        raise PydanticCustomError(
            UNSUPPORTED, "is not supported yet; leave it out or send {values}", {"values": values}
        )

    return AfterValidator(check)


def renamed(name: str) -> AfterValidator:
    """Refuse what other servers call by another name; to ignore it would be to answer something else."""

    def check(value: object) -> object:
        if value is None:
            return None
        raise PydanticCustomError(UNSUPPORTED, "has another name here; send {name}", {"name": name})

    return AfterValidator(check)
