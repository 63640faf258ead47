"""Sizes and docstrings: what keeps every file short enough to read in one go."""

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source_tree import PACKAGES, ROOT, modules

FILE_LINES, FUNCTION_LINES, CLASS_LINES = 300, 50, 150
MODULES = list(modules(*PACKAGES))
TESTS = [path for path, _ in modules("tests")]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(tree: ast.AST) -> Iterator[Definition]:
    return (node for node in ast.walk(tree) if isinstance(node, Definition))


def public_definitions(tree: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Those a reader may use: no private ones, and none inside functions."""
    for node in tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node)


def num_lines(node: Definition) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize(("path", "tree"), MODULES, ids=[path for path, _ in MODULES])
def test_file_and_its_definitions_are_short(path: str, tree: ast.Module) -> None:
    limits = {node: CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES for node in definitions(tree)}

    assert len((ROOT / path).read_text().splitlines()) <= FILE_LINES
    assert [(node.name, num_lines(node)) for node, limit in limits.items() if num_lines(node) > limit] == []


@pytest.mark.parametrize("path", TESTS)
def test_file_of_tests_is_short(path: str) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize(("path", "tree"), MODULES, ids=[path for path, _ in MODULES])
def test_module_and_its_public_definitions_are_explained(path: str, tree: ast.Module) -> None:
    assert ast.get_docstring(tree), f"{path} does not say what it decides"
    assert [node.name for node in public_definitions(tree) if not ast.get_docstring(node)] == []
