"""Joins the commands that use a mesh with the official OpenAI client, and puts its failures into one line."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import openai

from mesh.failure import MeshFailure


def open_client(url: str) -> openai.OpenAI:
    """A client of the mesh at that address, with or without the /v1 of base URLs; it connects with the first call.

    Its key is $OPENAI_API_KEY's; a mesh that asks for none takes any.
    """
    address = url.rstrip("/").removesuffix("/v1") + "/v1"
    return openai.OpenAI(base_url=address, api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=0)


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
