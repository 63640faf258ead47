"""Writes 200 JSON schemas of rising nastiness, eight levels in each of 25 families; knows no model and no grammar."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

LEVELS: Final = 8
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One schema. bounded: its language is finite, so every answer to it must come to an end by itself."""

    name: str
    schema: Schema
    bounded: bool


def cases() -> list[Case]:
    """All of them, the easy levels first."""
    return [case for level in range(1, LEVELS + 1) for case in _level(level)]


def _level(level: int) -> Iterator[Case]:
    for families, bounded in ((_BOUNDED, True), (_OPEN, False)):
        for family in families:
            yield Case(f"{family.__name__.strip('_')}-{level}", family(level), bounded)


def _text(longest: int) -> Schema:
    return {"type": "string", "maxLength": longest}


def _whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _flat(level: int) -> Schema:
    return _object({f"field_{i}": _text(8) if i % 2 else _whole(0, 99) for i in range(level)})


def _enums(level: int) -> Schema:
    values = [
        "red",
        "blau",
        "vert 🌿",
        "青い",
        'quo"te',
        "back\\slash",
        "tab\there",
        "𝔘nicode",
        "é",
        "e\u0301",
        7,
        None,
    ]
    return _object({"colour": {"enum": values[: level + 4]}, "again": {"enum": values[level:]}})


def _constants(level: int) -> Schema:
    values = [1, "one", None, True, [1, [2, [3]]], {"a": {"b": "ü"}}, -0.5, "line\nbreak\u2028"]
    return _object({f"c{i}": {"const": value} for i, value in enumerate(values[:level])})


def _integers(level: int) -> Schema:
    span = 10**level
    ranges = [_whole(-span, span), {"type": "integer", "exclusiveMinimum": span - 3, "exclusiveMaximum": span + 3}]
    return {"type": "array", "prefixItems": [*ranges, _whole(span + 7, span * 3)], "items": False, "minItems": 3}


def _multiples(level: int) -> Schema:
    return _object({"n": {**_whole(0, 1000), "multipleOf": level + 1}, "m": {**_whole(-50, 50), "multipleOf": 5}})


def _lengths(level: int) -> Schema:
    return _object({"exact": {**_text(3 * level), "minLength": 3 * level}, "short": _text(level), "none": _text(0)})


def _patterns(level: int) -> Schema:
    patterns = [
        *("^[a-z]{3}$", "^[A-Z]{2}-[0-9]{4}$", "^(yes|no|maybe)$", "^#[0-9a-fA-F]{6}$", "^\\d{3}-\\d{2}-\\d{4}$"),
        *("^[\\u4e00-\\u9fff]{1,4}$", "^(?:[01]\\d|2[0-3]):[0-5]\\d$", '^"[^"]{0,5}"$'),
    ]
    return _object({f"p{i}": {"type": "string", "pattern": pattern} for i, pattern in enumerate(patterns[:level])})


def _formats(level: int) -> Schema:
    names = ["date", "ipv4", "uuid", "date", "ipv4", "uuid", "date", "ipv4"]
    return _object({f"{name}_{i}": {"type": "string", "format": name} for i, name in enumerate(names[:level])})


def _nested_arrays(level: int) -> Schema:
    schema = _whole(0, 9)
    for _ in range(level):
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 2 if level < 5 else 1}
    return schema


def _nested_objects(level: int) -> Schema:
    schema = _object({"leaf": {"type": "boolean"}})
    for depth in range(2 * level):
        schema = _object({f"d{depth}": schema})
    return schema


def _any_of(level: int) -> Schema:
    kinds = [{"type": "null"}, {"type": "boolean"}, _whole(1, 9), _text(5), _object({"x": _whole(0, 3)}), {"const": []}]
    return _object({f"v{i}": {"anyOf": kinds[i % 3 : i % 3 + 2 + i // 3]} for i in range(level)})


def _one_of(level: int) -> Schema:
    shapes = [_object({"kind": {"const": f"k{i}"}, f"only_{i}": _whole(0, i)}) for i in range(level + 1)]
    return {"type": "array", "items": {"oneOf": shapes}, "minItems": 1, "maxItems": 2}


def _all_of(level: int) -> Schema:
    bounds: list[Schema] = [{"minimum": i} for i in range(level)]
    return _object(
        {"n": {"type": "integer", "allOf": [*bounds, {"maximum": 50}]}, "s": {"allOf": [_text(9), _text(4)]}}
    )


def _optional(level: int) -> Schema:
    return _object({f"maybe_{i}": _whole(0, 9) for i in range(2 * level)}, required=[f"maybe_{level}"])


def _tuples(level: int) -> Schema:
    items = [_text(4), _whole(-9, 9), {"type": "boolean"}, {"type": "null"}] * level
    return {"type": "array", "prefixItems": items[: 2 * level], "items": False, "minItems": 2 * level}


def _nullable(level: int) -> Schema:
    return _object({f"n{i}": {"type": ["string", "null"], "maxLength": 6} for i in range(level)})


def _odd_names(level: int) -> Schema:
    names = ["", "ключ", "键", 'a"b', "a\\b", "new\nline", "🔑🔑", "n" * 60]
    return _object({name: _whole(0, 9) for name in names[:level]})


def _records(level: int) -> Schema:
    record = _object({"id": _whole(1, 999), "tag": {"enum": ["a", "b", "c"]}, "note": _text(6)})
    return {"type": "array", "items": record, "minItems": level, "maxItems": level}


def _wide(level: int) -> Schema:
    return _object({f"flag_{i:02}": {"type": "boolean"} for i in range(4 * level)})


def _references(level: int) -> Schema:
    chain: Schema = {f"t{i}": _object({"next": {"$ref": f"#/$defs/t{i + 1}"}}) for i in range(level)}
    return {"$ref": "#/$defs/t0", "$defs": {**chain, f"t{level}": _whole(0, level)}}


def _numbers(level: int) -> Schema:
    least = -(10.0**-level)
    return _object({"x": {"type": "number", "minimum": least, "maximum": 10**level}, "y": {"type": "number"}})


def _linked_lists(level: int) -> Schema:
    node = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
    return {"$ref": "#/$defs/node", "$defs": {"node": _object({"value": _whole(0, level), "next": node})}}


def _trees(level: int) -> Schema:
    children = {"type": "array", "items": {"$ref": "#"}, "maxItems": level}
    return _object({"name": {"type": "string"}, "children": children}, required=["name"])


def _maps(level: int) -> Schema:
    values: list[Schema] = [_whole(0, 9), _text(9), {"type": "boolean"}, {"type": "array", "items": _whole(0, 9)}]
    odd = {"properties": {'ver"sion': {"const": level}}, "required": ['ver"sion']} if level > 4 else {}
    return {"type": "object", "additionalProperties": values[level % 4], **odd}


def _real_life(level: int) -> Schema:
    person = _object(
        {"name": {"type": "string"}, "age": _whole(0, 130), "email": {"type": "string", "format": "email"}}
    )
    item = _object({"sku": {"type": "string"}, "count": {"type": "integer"}, "price": {"type": "number"}})
    every: Schema = {
        "buyer": person,
        "items": {"type": "array", "items": item, "minItems": 1},
        "status": {"enum": ["open", "paid", "shipped"]},
        "placed": {"type": "string", "format": "date-time"},
        "address": _object({"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}),
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "notes": {"type": ["string", "null"]},
        "parent": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    }
    return _object(dict(list(every.items())[:level]))


_Family = Callable[[int], Schema]
_BOUNDED: Final[tuple[_Family, ...]] = (
    *(_flat, _enums, _constants, _integers, _multiples, _lengths, _patterns, _formats, _nested_arrays, _nested_objects),
    *(_any_of, _one_of, _all_of, _optional, _tuples, _nullable, _odd_names, _records, _wide, _references),
)
_OPEN: Final[tuple[_Family, ...]] = (_numbers, _linked_lists, _trees, _maps, _real_life)
