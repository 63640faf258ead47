"""Translates what pydantic found wrong into one MeshError whose sentence a person can act on."""

import json
from collections.abc import Sequence
from typing import Final, NotRequired, TypedDict

from meshkit.errors import MeshError, Reason
from services.gateway.openai.fields import UNSUPPORTED

_NO_OBJECT: Final = frozenset({"missing", "model_attributes_type"})  # what pydantic says of a body that is none
_LONGEST_ECHO: Final = 60  # characters of a bad value that are shown


class Problem(TypedDict):
    """One finding in pydantic's form, as FastAPI hands it on: loc starts with `body`."""

    type: str
    loc: tuple[int | str, ...]
    msg: str
    input: object
    ctx: NotRequired[dict[str, object]]


def to_mesh_error(problem: Problem) -> MeshError:
    """The finding as a 400 that names the field."""
    kind = problem["type"]
    if kind == "json_invalid":
        return _invalid(f"the body is not valid JSON at character {problem['loc'][-1]}", None, "invalid_json")
    param = to_param(problem["loc"][1:])
    if param is None:
        if kind in _NO_OBJECT:
            return _invalid("the body must be a JSON object", None, "invalid_type")
        return _invalid(f"the body {problem['msg']}", None, "invalid_value")
    if kind == "missing":
        return _invalid(f"{param} is required", param, "missing_required_parameter")
    sentence = f"{param} {_predicate(problem)}"
    if kind == UNSUPPORTED:
        return MeshError(Reason.NOT_SUPPORTED, sentence, param=param)
    return _invalid(sentence, param, "invalid_type" if kind.endswith("_type") else "invalid_value")


def to_param(location: Sequence[int | str]) -> str | None:
    """A path as a client would write it, e.g. `messages[0].role`; None for the body itself."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".") or None


def _predicate(problem: Problem) -> str:
    limits = problem.get("ctx", {})
    if problem["type"] == "too_short":
        return f"must hold at least {limits['min_length']}, got {limits['actual_length']}"
    if problem["type"] == "too_long":
        return f"must hold at most {limits['max_length']}, got {limits['actual_length']}"
    if problem["type"] == "model_attributes_type":
        return "must be an object"
    return problem["msg"].replace("Input should be", "must be") + _echo(problem["input"])


def _echo(value: object) -> str:
    if not isinstance(value, str | int | float | None):
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return f", got {text if len(text) <= _LONGEST_ECHO else text[:_LONGEST_ECHO] + '…'}"


def _invalid(message: str, param: str | None, code: str) -> MeshError:
    return MeshError(Reason.INVALID_REQUEST, message, param=param, code=code)
