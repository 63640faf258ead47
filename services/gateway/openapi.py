"""Decides what the OpenAPI document says beyond what FastAPI reads off handlers: failures, streams, headers, keys."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final, cast

from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.routing import BaseRoute

from meshkit.errors import TABLE, Reason
from services.gateway.call import LONGEST_TIMEOUT_S, TIMEOUT_HEADER
from services.gateway.openai.error import ErrorBody

TITLE: Final = "Zhinao Mesh"
_ABOUT: Final = (
    "OpenAI's API, and those of Cohere, Jina, vLLM and text-embeddings-inference, for chat, embedding and reranking "
    "models. A field that is null is as if it were absent. Fields without effect are named in `x-ignored-params`, or "
    "refused with `strict`. Every failure is one JSON object that says by its `code` what it was."
)
_TAGS: Final = {
    "generation": "Answers to conversations, and continuations of texts.",
    "search": "Vectors of texts, and the relevance of documents.",
    "tokens": "What a model reads.",
    "models": "What is served, and what was used of it.",
    "operation": "What probes and operators ask. Needs no key.",
}
_KEYED: Final = (Reason.UNAUTHENTICATED, Reason.NOT_READY)
_JSON_BODY: Final = (Reason.INVALID_REQUEST, Reason.NOT_SUPPORTED, Reason.WRONG_CONTENT_TYPE, Reason.TOO_LARGE)
_MODEL: Final = (
    Reason.PROMPT_TOO_LONG,
    Reason.FORBIDDEN,
    Reason.MODEL_NOT_FOUND,
    Reason.TENANT_LIMIT,
    Reason.QUEUE_FULL,
    Reason.UPSTREAM_LOST,
    Reason.DEADLINE,
)
_FINER: Final[Mapping[Reason, Sequence[str]]] = {  # codes beside the table's
    Reason.INVALID_REQUEST: ("missing_required_parameter", "invalid_type", "invalid_json"),
    Reason.TENANT_LIMIT: ("insufficient_quota",),
}
PROBED: Final = (Reason.INTERNAL,)
CLIENT: Final = (*PROBED, *_KEYED)
ASKED: Final = (*CLIENT, *_JSON_BODY, *_MODEL)  # a model, in a JSON body

_HEADERS: Final[Mapping[str, str]] = {
    "x-request-id": "Names the request in logs and traces; the client's own, where it is printable ASCII.",
    "server-timing": "Where the time went until the first byte, in milliseconds.",
    "openai-processing-ms": "The same in one number.",
    "x-ignored-params": "The fields of the body that had no effect.",
    "www-authenticate": "How to send a key.",
    "retry-after": "Seconds after which the same request will do.",
    "retry-after-ms": "The same in milliseconds.",
    "x-should-retry": "Whether the same request will do later.",
}
_OF_LIMITS: Final[Mapping[str, str]] = {
    f"x-ratelimit-{what}-{kind}": text.format(kind=kind)
    for kind in ("requests", "tokens")
    for what, text in {
        "limit": "How many {kind} a minute the key may use, where that is limited.",
        "remaining": "How many {kind} are left of this minute's.",
        "reset": "Until the count of {kind} begins anew, e.g. `12.345s`.",
    }.items()
}
_OF_ANY_ANSWER: Final = ("x-request-id", "server-timing", "openai-processing-ms")
_OF_STATUS: Final[Mapping[int, Sequence[str]]] = {
    401: ("www-authenticate",),
    429: ("x-should-retry", "retry-after", "retry-after-ms"),
    503: ("x-should-retry", "retry-after", "retry-after-ms"),
    504: ("x-should-retry",),
}
_PARAMETERS: Final[Mapping[str, tuple[str, dict[str, object]]]] = {
    "x-request-id": (_HEADERS["x-request-id"], {"type": "string"}),
    TIMEOUT_HEADER: (
        "Seconds that the whole answer may take, queue and stream included.",
        {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_TIMEOUT_S},
    ),
}

Responses = dict[int | str, dict[str, Any]]


def responses(
    answer: object,
    reasons: Sequence[Reason],
    *,
    error: type = ErrorBody,
    events: type | None = None,
    done: bool = False,
) -> Responses:
    """What a route can answer, in FastAPI's form.

    answer: type of its success. events: type of its stream's. done: whether `[DONE]` follows them.
    reasons: of its failures. error: type of their body.
    """
    success: dict[str, Any] = {"description": "Success", "headers": _headers(200, reasons), "model": answer}
    if events is not None:
        success["content"] = {"text/event-stream": {"schema": _event_schema(events, done=done)}}
    described: Responses = {200: success}
    codes: defaultdict[int, list[str]] = defaultdict(list)
    for reason in reasons:
        row = TABLE[reason]
        codes[row.http] += (row.openai_code or row.openai_type, *_FINER.get(reason, ()))
    for status in sorted(codes):
        description = f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes[status])}"
        described[status] = {"model": error, "description": description, "headers": _headers(status, reasons)}
    return described


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The whole document of these routes."""
    made = get_openapi(
        title=TITLE,
        version=version("zhinao-mesh"),
        openapi_version="3.1.0",  # 3.2 has a word for events, and generators of clients do not know it yet
        description=_ABOUT,
        routes=routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        servers=[
            {"url": "/", "description": "Where this document comes from."},
            {"url": "http://127.0.0.1:8360", "description": "The local mesh."},
        ],
    )
    components = made["components"]
    for methods in made["paths"].values():
        for operation in methods.values():
            operation["summary"] = operation.pop("description").removesuffix(".")
            operation["responses"].pop("422", None)  # FastAPI's own idea of a bad request
            _hoist_events(operation["responses"]["200"], components["schemas"])
            operation["parameters"] = [*operation.get("parameters", ()), *_parameters(operation)]
            operation["security"] = [] if "operation" in operation["tags"] else [{"key": []}, {}]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in {**_HEADERS, **_OF_LIMITS}.items()
    }
    components["parameters"] = {
        name: {"name": name, "in": "header", "description": text, "schema": schema}
        for name, (text, schema) in _PARAMETERS.items()
    }
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "Asked for where the mesh was started with keys."}
    }
    return made


def _headers(status: int, reasons: Sequence[Reason]) -> dict[str, dict[str, str]]:
    names = [*_OF_ANY_ANSWER, *_OF_STATUS.get(status, ())]
    if status == 200 and Reason.WRONG_CONTENT_TYPE in reasons:
        names.append("x-ignored-params")
    if status in (200, 429) and Reason.TENANT_LIMIT in reasons:
        names += _OF_LIMITS
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _parameters(operation: Mapping[str, Any]) -> list[dict[str, str]]:
    names = list(_PARAMETERS) if "504" in operation["responses"] else ["x-request-id"]
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _event_schema(events: type, *, done: bool) -> dict[str, Any]:
    """Of the data of an event, as OpenAI's own document has it: a piece of the answer, or the failure that ended it."""
    schema = TypeAdapter(cast("type[object]", events | ErrorBody)).json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    end = "; `[DONE]` follows the last one" if done else ""
    return {"description": f"The JSON of each event{end}. A failure is the last event.", **schema}


def _hoist_events(success: Mapping[str, Any], schemas: dict[str, Any]) -> None:
    """Move what the schema of events defines to where references look for it."""
    stream = success.get("content", {}).get("text/event-stream")
    if stream is not None:
        schemas.update(cast("dict[str, Any]", stream["schema"].pop("$defs")))
