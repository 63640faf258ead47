"""The one table of failures: complete, and in agreement with itself and with the protocols it names."""

import ast
import re
from http import HTTPStatus
from pathlib import Path

import pytest
from grpc import StatusCode

from meshkit.errors import TABLE, MeshError, Reason

TRITON_STUB = Path(__file__).resolve().parents[3] / "typings" / "triton_python_backend_utils.pyi"
# 499 is of no RFC, but what proxies log for a client that left.
HTTP_FAILURES = {status.value for status in HTTPStatus if status >= 400} | {499}
SERVER_TYPES = {"overloaded_error", "server_error", "timeout"}


def triton_codes() -> set[str]:
    classes = {node.name: node for node in ast.parse(TRITON_STUB.read_text()).body if isinstance(node, ast.ClassDef)}
    fields = [node.target for node in classes["TritonError"].body if isinstance(node, ast.AnnAssign)]
    return {field.id for field in fields if isinstance(field, ast.Name)}


@pytest.mark.parametrize("reason", Reason)
def test_reason_has_a_row_whose_codes_exist(reason: Reason) -> None:
    row = TABLE[reason]

    assert row.grpc is not StatusCode.OK
    assert row.triton is None or row.triton in triton_codes()
    assert row.http in HTTP_FAILURES
    assert re.fullmatch(r"[a-z_]+", row.openai_type)
    assert row.openai_code is None or re.fullmatch(r"[a-z_]+", row.openai_code)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.UNKNOWN_RPC])
def test_server_is_blamed_exactly_when_the_http_code_blames_it(reason: Reason) -> None:
    row = TABLE[reason]

    assert (row.openai_type in SERVER_TYPES) == (row.http >= 500)


def test_clients_can_tell_failures_apart_by_their_openai_code() -> None:
    codes = [row.openai_code for row in TABLE.values() if row.openai_code]

    assert sorted(set(codes)) == sorted(codes)


def test_error_knows_its_row() -> None:
    error = MeshError(Reason.PROMPT_TOO_LONG, "prompt is 9 tokens, the limit is 8", param="messages")

    assert (error.row.http, error.row.openai_code) == (400, "context_length_exceeded")
    assert str(error) == error.message == "prompt is 9 tokens, the limit is 8"
