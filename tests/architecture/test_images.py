"""What an image installs covers what its programs import; what else this machine happens to have counts for nothing."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.source_tree import PACKAGES, ROOT

OWN = {*PACKAGES, "zhinao"}
FROM_ELSEWHERE = {"triton_python_backend_utils", "flash_attn"}  # Triton brings the first; no GPU, no second
PROGRAMS = {
    "gateway": ["services/gateway/__main__.py"],
    "worker": ["mesh/worker_container.py", *map(str, ROOT.glob("model_repository/*/1/model.py"))],
}


def imports(path: Path) -> Iterator[str]:
    """Full names of all a file imports, in functions too; a name may be that of a module or of something in one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_file(name: str) -> Path | None:
    """The project's file that an imported name comes from."""
    for stem in (name, name.rpartition(".")[0]):
        for root in (ROOT, ROOT / "gen"):
            for path in (root / f"{stem.replace('.', '/')}.py", root / stem.replace(".", "/") / "__init__.py"):
                if path.is_file():
                    return path
    return None


def foreign_imports(programs: Iterable[str]) -> set[str]:
    """Names that programs and all of the project's code they reach import from elsewhere than Python itself."""
    todo, seen, foreign = [ROOT / program for program in programs], set[Path](), set[str]()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports(path):
            top = name.partition(".")[0]
            if top in OWN:
                todo += [file] if (file := own_file(name)) else []
            elif top not in sys.stdlib_module_names | FROM_ELSEWHERE:
                foreign.add(name)
    return foreign


def pinned(extras: Iterable[str]) -> list[Requirement]:
    """What pyproject.toml asks for; the metadata of the installed project may be older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def closure(requirements: Iterable[Requirement]) -> Iterator[Distribution]:
    """These distributions and all they need."""
    todo, seen = list(requirements), set[tuple[str, frozenset[str]]]()
    while todo:
        wanted = todo.pop()
        extras = frozenset(wanted.extras)
        if (canonicalize_name(wanted.name), extras) in seen:
            continue
        seen.add((canonicalize_name(wanted.name), extras))
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:  # the import it would serve is then reported
            continue
        yield found
        needed = map(Requirement, found.requires or [])
        todo += [n for n in needed if not n.marker or any(n.marker.evaluate({"extra": e}) for e in extras | {""})]


def module_files(installed: Iterable[Distribution]) -> set[str]:
    """Modules of these distributions, by dotted name; several share a namespace such as `opentelemetry`."""
    paths = [path for each in installed for path in each.files or [] if path.suffix in {".py", ".pyi", ".so"}]
    return {re.sub(r"(/__init__)?\.[^/]*$", "", str(path)).replace("/", ".") for path in paths}


@pytest.mark.parametrize("image", sorted(PROGRAMS))
def test_image_installs_what_its_programs_import(image: str) -> None:
    installs = re.search(r"/opt/zhinao-mesh\[([a-z,-]+)\]", (ROOT / f"k8s/images/{image}.Containerfile").read_text())
    assert installs is not None
    has, exists = module_files(closure(pinned(installs[1].split(",")))), module_files(distributions())

    names = foreign_imports(PROGRAMS[image])
    assert names, "no import was found"
    # `a.b.name` is module `a.b`, or `a.b.name` where that is one: the longest that exists anywhere must be in the image
    for name in sorted(names):
        module = name if name in exists else name.rpartition(".")[0] or name
        assert module in has, f"{image}: {name} is in no distribution of the image"
