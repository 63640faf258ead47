"""Schemathesis asks whatever the OpenAPI document allows, and what it forbids; each answer must be a documented one.

`make fuzz` asks more, by FUZZ_EXAMPLES: random requests per route, beside those at every boundary of the document.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import schemathesis
from schemathesis.core.failures import Failure

from services.gateway import document
from tests.architecture.source_tree import ROOT
from tests.fakes import fuzz_checks  # imported, it also tells this process how streams are read

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
SEED = ("--seed", "1") if EXAMPLES is None else ()
# Fields that contradict each other are refused, which no schema can say: so not all that it allows is accepted.
UNSAYABLE = "positive_data_acceptance,not_a_server_error"  # the latter is is_answered here
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NO_PROXY": "*", "NO_COLOR": "1"}
CHUNK = (
    'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","system_fingerprint":"f","choices":[]}\n\n'
)
FAILURE = 'data: {"error":{"message":"","type":"api_error","param":null,"code":null}}\n\n'
DONE = "data: [DONE]\n\n"


@pytest.fixture
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.fakes.answering_mesh"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT) as mesh:
        assert mesh.stdout is not None
        yield mesh.stdout.readline().strip()
        mesh.terminate()


def test_whatever_is_asked_is_answered_as_documented(url: str, tmp_path: Path) -> None:
    schema = tmp_path / "openapi.json"
    schema.write_text(document.text())
    command = [Path(sys.executable).parent / "st", "run", schema, "--url", url, "--phases", "examples,coverage,fuzzing"]
    options = ["--max-examples", EXAMPLES or "4", *SEED, "--exclude-checks", UNSAYABLE, "--warnings", "off"]

    result = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env={**ENVIRONMENT, "SCHEMATHESIS_HOOKS": fuzz_checks.__name__},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    print(result.stdout.partition("= SUMMARY =")[2])  # noqa: T201 - what `make fuzz` shows
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("stream", [CHUNK + DONE, f": keep-alive\n\n{CHUNK}{CHUNK}{FAILURE}"])
def test_a_stream_as_documented_is_accepted(stream: str) -> None:
    check_completion(stream)


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (CHUNK + CHUNK.replace('"model":"m"', '"model":1') + DONE, "SSE event violates schema"),
        (CHUNK.replace("cmpl-1", "\u2028") + DONE, "JSON deserialization error"),
        (CHUNK, "Content deserialization error"),
        (CHUNK + FAILURE + DONE, "Content deserialization error"),
        (DONE, "Content deserialization error"),
    ],
    ids=["wrong type", "other end of a line", "not ended", "ended after a failure", "empty"],
)
def test_a_stream_that_is_not_as_documented_is_found(stream: str, found: str) -> None:
    with pytest.raises(Failure) as raised:
        check_completion(stream)

    assert raised.value.title == found


def check_completion(stream: str) -> None:
    request = httpx.Request("POST", "http://mesh/v1/completions")
    answer = httpx.Response(200, text=stream, headers={"content-type": "text/event-stream"}, request=request)
    answer.elapsed = timedelta()
    schemathesis.openapi.from_dict(json.loads(document.text()))["/v1/completions"]["POST"].validate_response(answer)
