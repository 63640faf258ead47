"""Whom the commands that use a mesh ask, and with which key."""

import pytest

from cli.client import open_client


@pytest.mark.parametrize(
    "url", ["http://mesh:8360", "http://mesh:8360/", "http://mesh:8360/v1", "http://mesh:8360/v1/"]
)
def test_an_address_is_taken_with_and_without_its_v1(url: str) -> None:
    assert str(open_client(url).base_url) == "http://mesh:8360/v1/"


@pytest.mark.parametrize(("variable", "key"), [("sk-mesh-1", "sk-mesh-1"), ("", "none"), (None, "none")])
def test_the_key_is_the_environments(monkeypatch: pytest.MonkeyPatch, variable: str | None, key: str) -> None:
    if variable is None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    else:
        monkeypatch.setenv("OPENAI_API_KEY", variable)

    assert open_client("http://mesh").api_key == key
