"""The Containerfiles: the pins they repeat are the project's, and what they copy is what their programs need."""

import re
import tomllib
from typing import Any

from tests.architecture.source_tree import ROOT

IMAGES = ROOT / "k8s" / "images"


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_stub_is_that_of_the_pinned_triton() -> None:
    (pin,) = [each for each in project()["optional-dependencies"]["demo"] if each.startswith("nvidia-pytriton==")]

    assert f" {pin} " in (IMAGES / "worker.Containerfile").read_text().replace("\n", " ").replace("\\", " ")


def test_images_are_named_by_the_projects_version_and_installed_with_extras_that_exist() -> None:
    for file in IMAGES.iterdir():
        text = file.read_text()
        assert re.findall(r"-t \S+:(\S+) \.", text) == [project()["version"]]
        (extras,) = re.findall(r'"/opt/zhinao-mesh\[([^\]]+)\]"', text)
        assert set(extras.split(",")) <= project()["optional-dependencies"].keys()
        assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)


def test_the_whole_of_what_is_served_is_copied() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = build["targets"]["wheel"]["packages"]

    assert {package.partition("/")[0] for package in packages} | {"model_repository", "pyproject.toml"} <= copied
