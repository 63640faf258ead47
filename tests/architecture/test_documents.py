"""What the documents name exists: settings with their defaults, make targets, commands and their options."""

import importlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings
from typer.core import TyperGroup
from typer.main import get_command

from cli.main import app
from services.gateway.openai.chat import ChatCompletionRequest
from services.gateway.openai.completion import CompletionRequest
from services.gateway.openai.embeddings import EmbeddingRequest
from services.gateway.openai.fields import RequestBody
from services.gateway.search.rerank import RerankRequest
from services.gateway.search.score import ScoreRequest
from services.gateway.search.tei import TeiEmbedRequest, TeiRerankRequest
from tests.architecture.source_tree import ROOT, modules, tracked_files

SETTINGS_FILES = [path for path, _ in modules("meshkit", "services") if path.endswith("/settings.py")]
ROW = re.compile(r"^\| `(?P<variable>[A-Z_]+)` \| (?P<default>[^|]+) \| [^|]+ \|$", re.MULTILINE)
DOCUMENTS = [path for path in tracked_files("README.md", "CONTRIBUTING.md", "docs/*.md") if path.stat().st_size]
CODE = re.compile(r"```(?:sh|bash|shell|console)\n(?P<block>.*?)```|(?<!`)`(?P<inline>[^`\n]+)`(?!`)", re.DOTALL)


def settings_classes(path: str) -> list[type[BaseSettings]]:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]


def documented_settings(prefix: str) -> dict[str, str]:
    rows = ROW.finditer((ROOT / "docs/operations.md").read_text())
    return {row["variable"]: row["default"] for row in rows if row["variable"].startswith(prefix)}


def default_text(default: object) -> str:
    """How the page spells a default."""
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "unset"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Words after the program's name, for every shell line and every piece of inline code that calls it."""
    for code in CODE.finditer(text):
        for line in (code["block"] or code["inline"]).splitlines():
            for part in re.split(r"&&|;|\|", line.partition(" #")[0]):
                words = re.sub(r'"[^"]*"|\'[^\']*\'', "…", part).strip().removeprefix("$ ").split()
                if words and words[0].rpartition("/")[2] == program:
                    yield words[1:]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", SETTINGS_FILES)
def test_settings_are_documented_with_their_defaults(path: str) -> None:
    (settings,) = settings_classes(path)
    prefix = settings.model_config.get("env_prefix", "")
    expected = {prefix + name.upper(): default_text(field.default) for name, field in settings.model_fields.items()}

    assert documented_settings(prefix) == expected


def test_request_parameters_are_documented_with_their_routes() -> None:
    text = (ROOT / "docs/parameters.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \| (both|chat|text) \|", text, re.MULTILINE)
    documented = {(name, route) for names, route in rows for name in re.findall(r"`(\w+)`", names)}
    prose = set(re.findall(r"`(\w+)`", re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)))
    chat, completion = set(ChatCompletionRequest.model_fields), set(CompletionRequest.model_fields)
    routes = {name: "both" if name in chat & completion else "chat" for name in chat} | dict.fromkeys(
        completion - chat, "text"
    )
    routes.pop("logprobs")  # it has a meaning of its own on each route

    assert {("logprobs", "chat"), ("logprobs", "text")} <= documented
    assert {(name, route) for name, route in routes.items() if name not in prose} <= documented
    assert {name for name, _ in documented} <= chat | completion


@pytest.mark.parametrize(
    ("title", "bodies"),
    [
        ("Embeddings", {"/v1/embeddings": EmbeddingRequest, "/embed": TeiEmbedRequest}),
        ("Rerank and score", {"/v1/rerank": RerankRequest, "/rerank": TeiRerankRequest, "/v1/score": ScoreRequest}),
    ],
)
def test_search_parameters_are_documented_with_their_routes(title: str, bodies: dict[str, type[RequestBody]]) -> None:
    (section,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", (ROOT / "docs/parameters.md").read_text(), re.M | re.S)
    rows = re.findall(r"^\| (`.+?`) \| (`.+?`) \|", section, re.MULTILINE)
    documented = {(name, route) for names, routes in rows for name in names.split(", ") for route in routes.split(", ")}
    prose = set(re.findall(r"`\w+`", re.sub(r"^\|.*$", "", section, flags=re.MULTILINE)))
    fields = {(f"`{name}`", f"`{route}`") for route, body in bodies.items() for name in body.model_fields}

    assert {(name, route) for name, route in fields if name not in prose} <= documented <= fields


def test_every_phony_target_exists_and_every_target_is_phony() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert phony is not None
    assert set(phony[1].split()) == make_targets()


def test_make_help_shows_what_each_target_does() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()

    assert "k8s-e2e" in [line.split()[0] for line in shown]
    assert [line for line in shown if "##" in line] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_that_documents_name_exist(document: Path) -> None:
    named = {word for words in commands(document.read_text(), "make") for word in words if re.match("[a-z]", word)}

    assert named - make_targets() == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_documents_name_exist(document: Path) -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)

    for words in commands(document.read_text(), "zhinao"):
        if not words:
            continue
        assert words[0] in group.commands, f"zhinao {' '.join(words)}"
        command = group.commands[words[0]]
        if isinstance(command, TyperGroup) and len(words) > 1:
            assert words[1] in command.commands, f"zhinao {' '.join(words)}"
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word.strip("[]").partition("=")[0] for word in words if word.strip("[]").startswith("--")}
        assert options - {"--help"} <= known, f"zhinao {' '.join(words)}"


def test_commands_are_found_in_blocks_and_in_inline_code() -> None:
    text = 'Run\n```sh\n$ make up ARGS="--port 1" && zhinao chat  # talk\n```\nor `.venv/bin/zhinao status --json`.'

    assert list(commands(text, "make")) == [["up", "ARGS=…"]]
    assert list(commands(text, "zhinao")) == [["chat"], ["status", "--json"]]


def test_readme_shows_how_to_start_test_and_stop() -> None:
    named = {word for words in commands((ROOT / "README.md").read_text(), "make") for word in words}

    assert {"up", "test", "down"} <= named
