"""The OpenAPI document: valid, committed as it is generated, and the same from operation to operation."""

import json
import re
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from openapi_spec_validator import validate

from meshkit.errors import TABLE, Reason
from services.gateway import document
from services.gateway.app import bare_app
from tests.architecture.source_tree import ROOT

DOCUMENT: dict[str, Any] = json.loads(document.text())
OPERATIONS = [
    pytest.param(method, path, operation, id=operation["operationId"])
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
ERRORS = {f"#/components/schemas/{name}" for name in ("ErrorBody", "RerankErrorBody", "TeiErrorBody")}
operations = pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)


def test_the_committed_document_is_the_generated_one() -> None:
    assert (ROOT / document.DOCUMENT).read_text() == document.text(), "run `make openapi` and commit what it wrote"


def test_it_is_a_valid_openapi_document() -> None:
    validate(DOCUMENT)


def test_every_route_of_clients_is_in_it() -> None:
    hidden = {"/", "/docs", "/docs/assets/{path}", "/openapi.json", "/metrics"}
    served = {route.path_format for route in iter_route_contexts(bare_app().routes) if route.path_format}

    assert served - hidden == set(DOCUMENT["paths"])


def test_every_failure_of_the_table_that_http_can_tell_is_in_it() -> None:
    described = {
        status for methods in DOCUMENT["paths"].values() for each in methods.values() for status in each["responses"]
    }
    untold = {Reason.CLIENT_CANCELLED, Reason.UNKNOWN_RPC, Reason.ROUTE_NOT_FOUND, Reason.METHOD_NOT_ALLOWED}

    assert {str(row.http) for reason, row in TABLE.items() if reason not in untold} == described - {"200"}


def test_operation_ids_are_unique() -> None:
    ids = [each.values[2]["operationId"] for each in OPERATIONS]

    assert len(set(ids)) == len(ids)


@operations
def test_an_operation_says_what_it_is(method: str, path: str, operation: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]+", operation["operationId"])
    assert re.fullmatch(r"[A-Z].{9,}[^.]", operation["summary"])
    (tag,) = operation["tags"]
    assert tag in {each["name"] for each in DOCUMENT["tags"]}
    assert bool(operation["security"]) == (tag != "operation")


@operations
def test_an_operation_describes_its_failures_in_one_shape(method: str, path: str, operation: dict[str, Any]) -> None:
    failures = {status: each for status, each in operation["responses"].items() if status >= "400"}
    (schema,) = {each["content"]["application/json"]["schema"]["$ref"] for each in failures.values()}

    assert schema in ERRORS
    assert "422" not in failures and "500" in failures
    assert {"400", "413", "415"} <= set(failures) or method == "get"
    assert all(
        list(each["content"]) == ["application/json"] and "`" in each["description"] for each in failures.values()
    )


@operations
def test_every_answer_names_its_request(method: str, path: str, operation: dict[str, Any]) -> None:
    for status, answer in operation["responses"].items():
        assert "x-request-id" in answer["headers"]
        assert ("x-should-retry" in answer["headers"]) == (status in {"429", "503", "504"})


@pytest.mark.parametrize(
    ("path", "events", "done"),
    [
        ("/v1/chat/completions", "ChatChunk", True),
        ("/v1/completions", "Completion", True),
        ("/v1/responses", "ResponseEvent", False),
    ],
)
def test_a_stream_names_the_schema_of_its_events_and_whether_done_follows(path: str, events: str, done: bool) -> None:
    schema = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]

    assert [each["$ref"].rpartition("/")[2] for each in schema["anyOf"]] == [events, "ErrorBody"]
    assert ("[DONE]" in schema["description"]) == done


@operations
def test_a_body_comes_with_an_example_and_a_streamed_one_where_it_can_be(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    if method == "get":
        return
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]
    streamed = "text/event-stream" in operation["responses"]["200"]["content"]

    assert [example.get("stream", False) for example in schema["examples"]] == ([False, True] if streamed else [False])
    assert all(
        set(schema.get("required", ())) <= set(example) <= set(schema["properties"]) for example in schema["examples"]
    )
