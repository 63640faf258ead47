"""Decides how an answer is written as JSON, whatever of its request it repeats."""

import json

import orjson


def to_json_bytes(content: object) -> bytes:
    """UTF-8. Arrays of numpy become lists, with the digits that their own type needs."""
    try:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # it knows no integer beyond 64 bits, which a schema of the client's may hold
        return json.dumps(content).encode()
