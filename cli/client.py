"""Joins the commands that use a mesh with the official OpenAI client, and puts its failures into one line."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import openai

from mesh.failure import MeshFailure


def open_client(url: str) -> openai.OpenAI:
    """A client of the mesh whose edge is at that address; it connects with the first call."""
    return openai.OpenAI(base_url=url.rstrip("/") + "/v1", api_key="none", max_retries=0)


@contextmanager
def told_failures(url: str) -> Generator[None]:
    """Turn what the client raises into a MeshFailure with the server's own words."""
    try:
        yield
    except openai.APIStatusError as error:
        raise MeshFailure(one_line(error)) from error
    except openai.APIError as error:
        raise MeshFailure(f"{url} does not answer ({one_line(error)}); is the mesh up? zhinao up starts it") from error


def one_line(error: openai.APIError) -> str:
    """The server's message, without the rest of the error's body."""
    body = error.body
    message = cast(dict[str, object], body).get("message") if isinstance(body, dict) else None
    code = f"HTTP {error.status_code}: " if isinstance(error, openai.APIStatusError) else ""
    return " ".join(f"{code}{message or error.message}".split())
