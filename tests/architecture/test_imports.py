"""Import rules: those import-linter can say are in pyproject.toml and shown to bite; the rest are here."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source_tree import PACKAGES, ROOT, modules

TENSOR_CODE = {"torch", "transformers", "modelkit"}
# measurements inside of the worker, on purpose
RUNS_THE_ENGINE = {
    *("bench.peers.ours", "bench.perplexity", "bench.profile"),
    *("bench.peers.make_rankers", "bench.rerank_quality", "bench.structured"),
}
# arithmetic on a checkpoint's config, which `zhinao plan` does
ONLY_COUNTS = {"modelkit", "modelkit.capacity", "modelkit.config", "modelkit.shapes"}
INSIDE_TRITON = {"workerkit.replies", "workerkit.triton", "workerkit.unary"}
ENTRIES = sorted(ROOT.glob("model_repository/*/1/model.py"))


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    environment = {"PYTHONPATH": f"{folder}:{folder / 'gen'}"}  # before the installed project
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_import_contracts_are_kept() -> None:
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("meshkit/wire.py", "import services.gateway.app", "Arrows point down"),
        ("modelkit/config.py", "import meshkit.errors", "Arrows point down"),
        ("mesh/plan.py", "import bench", "Arrows point down"),
        ("workerkit/metrics.py", "import services.chat_worker.metrics", "Arrows point down"),
        ("services/gateway/app.py", "import services.chat_worker.request", "Services are strangers"),
        ("services/gateway/app.py", "import torch", "No tensor library"),
        ("cli/chat.py", "import modelkit.config", "No tensor library"),
        ("workerkit/traces.py", "import torch", "No tensor library"),
        ("modelkit/config.py", "import grpc", "modelkit knows no gRPC"),
        ("services/gateway/routes/chat.py", "import zhinao.chat.v1.chat_pb2", "Protobuf stays at the edge"),
        ("services/chat_worker/worker.py", "import zhinao.chat.v1.chat_pb2", "Protobuf stays at the edge"),
        ("services/chat_worker/worker.py", "import triton_python_backend_utils", "Only one file knows Triton"),
        ("services/chat_worker/engine/blocks.py", "import services.chat_worker.engine.loop", "The engine is layered"),
        ("services/chat_worker/engine/loop.py", "import services.chat_worker.outbox", "The engine is layered"),
        ("services/chat_worker/engine/scheduler.py", "import time", "no tensors and no clocks"),
        ("services/chat_worker/engine/sequence.py", "import torch", "no tensors and no clocks"),
    ],
)
def test_forbidden_import_breaks_its_contract(tmp_path: Path, module: str, line: str, broken: str) -> None:
    for package in (*PACKAGES, "gen"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")

    result = lint_imports(tmp_path)

    assert result.returncode == 1, result.stdout + result.stderr
    assert any(broken in text and "BROKEN" in text for text in result.stdout.splitlines()), result.stdout


@pytest.mark.parametrize("package", ["bench", "cli", "mesh", "meshkit", "services/gateway", "workerkit"])
def test_light_package_loads_no_tensor_code(package: str) -> None:
    names = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path, _ in modules(package)]
    names = [name for name in names if name not in RUNS_THE_ENGINE | INSIDE_TRITON]
    program = f"import json, sys, {', '.join(names)}; print(json.dumps(list(sys.modules)))"

    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    loaded = set(json.loads(result.stdout))
    assert set(names) <= loaded
    assert not {name.partition(".")[0] for name in loaded - ONLY_COUNTS} & TENSOR_CODE


def test_a_gateway_without_keys_loads_no_database() -> None:
    program = "import json, sys, services.gateway.__main__; print(json.dumps(list(sys.modules)))"

    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert not {name.partition(".")[0] for name in json.loads(result.stdout)} & {"alembic", "redis", "sqlalchemy"}


def test_there_is_a_triton_entry_per_worker() -> None:
    workers = {path.name.removesuffix("_worker") for path in (ROOT / "services").glob("*_worker")}

    assert {path.parts[-3] for path in ENTRIES} == workers


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.parts[-3])
def test_triton_entry_only_hands_over_to_its_adapter(path: Path) -> None:
    text = path.read_text()
    body = ast.parse(text).body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    classes = [node for node in body if isinstance(node, ast.ClassDef)]

    assert len(text.splitlines()) <= 15
    assert [node.module if isinstance(node, ast.ImportFrom) else None for node in imports] == [
        f"services.{path.parts[-3]}_worker.adapter"
    ]
    assert [node.name for node in classes] == ["TritonPythonModel"]
    assert {"initialize", "execute", "finalize"} <= {
        node.name for node in classes[0].body if isinstance(node, ast.FunctionDef)
    }


def test_environment_of_services_is_read_by_settings_files_only() -> None:
    readers = {
        path
        for path, tree in modules("services")
        if names_in(tree) & {"environ", "getenv", "BaseSettings", "UnarySettings"}
    }

    assert readers == {path for path, _ in modules("services") if path.endswith("/settings.py")}


def test_environment_is_never_read_at_import() -> None:
    readers = {path for path, tree in modules(*PACKAGES) for node in nodes_at_import(tree) if reads_environment(node)}

    assert readers == set()


def test_reading_the_environment_at_import_would_be_seen() -> None:
    lines = (
        "X = os.environ['X']",
        "class A:\n x = getenv('X')",
        "def f(x=environ.get('X')): ...",
        "X = ChatSettings()",
    )

    assert all(any(map(reads_environment, nodes_at_import(ast.parse(line)))) for line in lines)


def names_in(tree: ast.AST) -> set[str]:
    """Every plain or dotted name that is used, by its last part."""
    return {last_name(node) for node in ast.walk(tree)} - {""}


def last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def reads_environment(node: ast.AST) -> bool:
    builds_settings = isinstance(node, ast.Call) and last_name(node.func).endswith("Settings")
    return builds_settings or last_name(node) in {"environ", "getenv"}


def nodes_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: everything but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts: list[ast.AST] = [node.args, *node.decorator_list]
        else:
            parts = [] if isinstance(node, ast.Lambda) else [node]
        for part in parts:
            yield part
            yield from nodes_at_import(part)
