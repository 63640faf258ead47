"""The examples of docs/clients.md, run as they stand against a gateway behind the real Envoy."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.gateway import document
from tests.architecture.source_tree import ROOT
from tests.contract.gateway.conftest import running_mesh
from tests.fakes.answers import fitting
from tests.fakes.triton import Compute
from tests.fixtures.debian import program
from tests.fixtures.envoy import running_envoy
from tests.fixtures.node_client import run_node

TEXT = (ROOT / "docs/clients.md").read_text()
EXAMPLES = re.findall(r"^```(sh|python|js)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
EDGE = "127.0.0.1:8360"
NEEDS_KEYS = "/v1/usage"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Address of a mesh that has an answer to whatever it is asked."""
    folder = tmp_path_factory.mktemp("envoy")
    async with running_mesh() as mesh:
        mesh.triton.script = [Compute(fitting)]
        port = int(mesh.http.base_url.port or 0)
        async with running_envoy(folder, port, grpc_port=mesh.grpc_port) as edge_port:
            yield f"127.0.0.1:{edge_port}"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=lambda value: value.split("\n")[0][:40])
async def test_an_example_runs(edge: str, tmp_path: Path, language: str, code: str) -> None:
    assert EDGE in code
    code = code.replace(EDGE, edge)
    match language:
        case "js":
            assert await run_node(code)
        case "python":
            assert await run(tmp_path, sys.executable, "-W", "error", "-c", code)
        case _:
            program("curl", "curl")
            for line in code.replace("\\\n", " ").splitlines():
                answer = await run(tmp_path, "sh", "-c", line.replace("curl", "curl -sS", 1))
                assert answer and (NEEDS_KEYS in line or not re.search(r'"error": ?[^n]', answer))


async def run(folder: Path, *command: str) -> str:
    """What the command prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NO_PROXY": "*"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


def test_every_route_has_an_example() -> None:
    shell = "\n".join(code for language, code in EXAMPLES if language == "sh")
    paths = [path.replace("{model_id}", "zhinao-chat") for path in json.loads(document.text())["paths"]]

    assert [path for path in paths if not re.search(rf"{EDGE}{path}(\s|$)", shell)] == []


def test_every_call_of_grpc_has_an_example() -> None:
    calls = {
        (service[1], call)
        for proto in (ROOT / "protos").rglob("*.proto")
        for service in re.finditer(r"^service (\w+) \{(.*?)^\}", proto.read_text(), re.MULTILINE | re.DOTALL)
        for call in re.findall(r"rpc (\w+)\(", service[2])
    }
    python = [code for language, code in EXAMPLES if language == "python"]

    assert calls
    assert [
        each for each in calls if not any(f"{each[0]}Stub" in code and f".{each[1]}(" in code for code in python)
    ] == []
