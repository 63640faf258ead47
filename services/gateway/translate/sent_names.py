"""Gives the fields that a worker finds fault with the names under which the client sent them."""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from meshkit.errors import MeshError

TEI_EMBED: Final[Mapping[str, str]] = MappingProxyType({"input": "inputs"})
TEI_RERANK: Final[Mapping[str, str]] = MappingProxyType({"documents": "texts"})
SCORE: Final[Mapping[str, str]] = MappingProxyType({"query": "text_1", "documents": "text_2"})


@contextmanager
def sent_as(names: Mapping[str, str]) -> Generator[None]:
    """Rename the field that a failure's sentence begins with, and its param. names: a worker's to the client's."""
    field = re.compile(rf"^({'|'.join(names)})\b")
    try:
        yield
    except MeshError as error:
        error.message = field.sub(lambda found: names[found[1]], error.message)
        error.param = error.param and field.sub(lambda found: names[found[1]], error.param)
        raise
