"""Schemathesis asks whatever the OpenAPI document allows, and what it forbids; each answer must be a documented one.

`make fuzz` asks more, by FUZZ_EXAMPLES: random requests per route, beside those at every boundary of the document.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway import document
from tests.architecture.source_tree import ROOT

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
SEED = ("--seed", "1") if EXAMPLES is None else ()
# Fields that contradict each other are refused, which no schema can say: so not all that it allows is accepted.
UNSAYABLE = "positive_data_acceptance,not_a_server_error"  # the latter is is_answered here
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NO_PROXY": "*", "NO_COLOR": "1"}


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
        env={**ENVIRONMENT, "SCHEMATHESIS_HOOKS": "tests.fakes.fuzz_checks"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    print(result.stdout.partition("= SUMMARY =")[2])  # noqa: T201 - what `make fuzz` shows
    assert result.returncode == 0, result.stdout
