"""Says which values a field may hold beyond its type; each failure reads on after the field's name."""

import json
from typing import Annotated, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

UNSUPPORTED: Final = "unsupported_parameter"  # error type of a value that OpenAI allows and this mesh does not


def check_unicode(value: str) -> str:
    """The text itself, if UTF-8 and protobuf can spell it; JSON can also spell a lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "text_unicode", "is not valid Unicode: lone surrogate at character {position}", {"position": error.start}
        ) from error
    return value


Text = Annotated[str, AfterValidator(check_unicode)]


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
