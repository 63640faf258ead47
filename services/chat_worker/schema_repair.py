"""Rewrites the patterns of a JSON schema that llguidance 1.9.1 would read too widely; knows nothing else of schemas."""

import re
from collections.abc import Callable, Mapping
from typing import Final, cast

# A class, or an escape, which begins none. One that never ends is found too: else it would be sought from each bracket.
_CLASS: Final = re.compile(r"\\.|\[(\^?)((?:[^\\\]]++|\\.)*+)(?:(\])|\\?\Z)", re.DOTALL)
_BRACKET: Final = re.compile(r"\\.|\[", re.DOTALL)
_RANGE_FROM_NUL: Final = re.compile(r"\\(?:x00|u0000)-")
_MAPS_OF_SCHEMAS: Final = ("properties", "$defs", "definitions", "dependentSchemas")
_DATA: Final = ("const", "enum", "default", "examples")
_DEEPEST: Final = 200  # the library itself refuses what is deeper than 128


def repaired(schema: Mapping[str, object], depth: int = 0) -> dict[str, object]:
    """The schema with NUL taken out of every class of characters in its patterns, and brackets in classes escaped.

    Inside a JSON string the library takes a class that holds all control characters, as `[^"]` does, to hold an escaped
    quote and backslash too, so that answers need not match. Without NUL it does not. And it nests classes, where JSON
    Schema's patterns (ECMA 262) take an opening bracket inside a class as it is.
    """
    if depth > _DEEPEST:
        return dict(schema)
    return {key: _repair(key, value, depth + 1) for key, value in schema.items()}


def _repair(key: str, value: object, depth: int) -> object:
    if key == "pattern" and isinstance(value, str):
        return _repair_pattern(value)
    if key in _DATA:
        return value
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [repaired(cast("dict[str, object]", item), depth) if isinstance(item, dict) else item for item in items]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    if key in _MAPS_OF_SCHEMAS:
        return _map_of_schemas(fields, str, depth)
    return _map_of_schemas(fields, _repair_pattern, depth) if key == "patternProperties" else repaired(fields, depth)


def _map_of_schemas(fields: dict[str, object], rename: Callable[[str], str], depth: int) -> dict[str, object]:
    return {
        rename(name): repaired(cast("dict[str, object]", each), depth) if isinstance(each, dict) else each
        for name, each in fields.items()
    }


def _repair_pattern(pattern: str) -> str:
    return _RANGE_FROM_NUL.sub(r"\\x01-", _CLASS.sub(_repair_class, pattern))


def _repair_class(found: re.Match[str]) -> str:
    if found[3] is None:
        return found[0]
    members = _BRACKET.sub(lambda each: r"\[" if each[0] == "[" else each[0], found[2])
    return f"[^\\x00{members}]" if found[1] else f"[{members}]"
