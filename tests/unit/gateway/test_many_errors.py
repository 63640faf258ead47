"""A body that is wrong a million times is refused as fast as one that is wrong once."""

from collections.abc import Iterator
from typing import Final

import pytest
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ValidationError

from services.gateway.app import bare_app
from services.gateway.openai.fields import Part

_MANY: Final = 1000  # no more than the longest limit of a list: beyond it no item is looked at
_FEW: Final = 4  # a value that may be one of several types is wrong once for each
_BAD: Final[tuple[object, ...]] = (1.5, None, -1, "", "\ud800", {}, [], {"type": 1.5}, {"role": "user", "content": 1})


def _kinds(kind: type[Part] = Part) -> Iterator[type[Part]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


FIELDS: Final = sorted(
    {(kind, field.alias or name) for kind in _kinds() for name, field in kind.model_fields.items()},
    key=lambda each: (each[0].__name__, each[1]),
)


def test_the_body_of_every_route_is_one_of_these() -> None:
    fields = [getattr(route, "body_field", None) for route in iter_route_contexts(bare_app().routes)]
    bodies = {field.field_info.annotation for field in fields if field is not None}

    assert bodies and bodies <= {kind for kind, _ in FIELDS}


def _num_errors(kind: type[BaseModel], name: str, value: object) -> int:
    try:
        kind.model_validate({name: value})
    except ValidationError as error:
        return sum(each["loc"][:1] == (name,) for each in error.errors(include_url=False, include_input=False))
    return 0


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_field_of_many_bad_items_is_wrong_once(kind: type[Part], name: str) -> None:
    for bad in _BAD:
        items = [bad] * _MANY
        for value in (items, [items], {"a": items}):
            assert _num_errors(kind, name, value) <= _FEW, (bad, value is items)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_field_of_many_bad_keys_or_values_is_wrong_once(kind: type[Part], name: str) -> None:
    values = dict.fromkeys(map(str, range(_MANY)), "bad")

    assert _num_errors(kind, name, values) <= _FEW
