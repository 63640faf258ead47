"""`zhinao embed` and `zhinao rerank`: texts as arguments, of a file or a pipe; JSON lines, or a table for people."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import openai
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.client import one_line, open_client, told_failures
from cli.failures import UsageFailure
from mesh.failure import MeshFailure

_TEXTS_PER_REQUEST: Final = 256
_INPUT: Final = re.compile(r"\binput\[(\d+)\]")  # as a server names a text of one request
_NAME_LENGTH: Final = 40  # characters
_WIDEST_TABLE: Final = 12  # texts; a terminal has no room for more columns
_BAR_WIDTH: Final = 20  # characters of a relevance of 1


def embed(url: str, texts: Sequence[str], options: Mapping[str, object], as_json: bool) -> None:
    """Print each text's vector as a line of JSON, or how alike the texts are. Raises UsageFailure or MeshFailure."""
    if not as_json and len(texts) > _WIDEST_TABLE:
        raise UsageFailure(f"{len(texts)} texts are too many for a table of at most {_WIDEST_TABLE}; add --json")
    with told_failures(url), open_client(url) as client:
        vectors = _vectors(client, texts, options)
        if as_json:
            for text, vector in zip(texts, vectors, strict=True):
                typer.echo(json.dumps({"text": text, "embedding": vector}, ensure_ascii=False))
        else:
            Console().print(similarity_table(texts, np.array(list(vectors))))


def rerank(url: str, query: str, documents: Sequence[str], options: Mapping[str, object], as_json: bool) -> None:
    """Print the documents by relevance, best first, as lines of JSON or a table. Raises MeshFailure."""
    body = {"query": query, "documents": documents, "return_documents": True, **options}
    with told_failures(url), open_client(url) as client:
        answer = cast("dict[str, Any]", client.post("/rerank", body=body, cast_to=object))
    if not as_json:
        Console().print(ranking_table(answer["results"], answer.get("threshold")))
        return
    for result in answer["results"]:
        typer.echo(json.dumps({**result, "document": result["document"]["text"]}, ensure_ascii=False))


def read_texts(texts: Sequence[str], file: Path | None, *, what: str) -> list[str]:
    """The texts typed, then the lines of the file, or of standard input if there are neither or the file is `-`.

    Lines without text are left out. Raises UsageFailure if nothing is left.
    """
    if file is None and not texts and sys.stdin.isatty():
        raise UsageFailure(f"no {what}: type some, name a file of one on each line with -f, or use a pipe")
    lines = list(texts)
    if file == Path("-") or (file is None and not texts):
        lines += _lines(sys.stdin.buffer.read())
    elif file is not None:
        lines += _lines(file.read_bytes())
    found = [line for line in lines if line.strip()]
    if not found:
        raise UsageFailure(f"no {what}: every line is empty")
    return found


def _lines(data: bytes) -> Iterator[str]:
    """UTF-8's lines as other tools count them: str.splitlines ends some at form feeds and at U+2028 too."""
    return (line.rstrip("\r") for line in data.decode(errors="replace").split("\n"))


def similarity_table(texts: Sequence[str], vectors: NDArray[np.float64]) -> Table:
    """How alike each two texts are: the cosine of their vectors. vectors: (texts, dimensions)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    table = Table(box=None, expand=True)
    table.add_column("", justify="right")
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for number in range(len(texts)):
        table.add_column(str(number + 1), justify="right", no_wrap=True)
    for number, (text, row) in enumerate(zip(texts, unit @ unit.T, strict=True), start=1):
        table.add_row(str(number), Text(text), *(f"{cosine:.2f}" for cosine in row))
    return table


def ranking_table(results: Sequence[Mapping[str, Any]], threshold: float | None) -> Table:
    """The results in their order, with a bar for each; those below the threshold are dim."""
    table = Table(box=None, expand=True)
    table.add_column("rank", justify="right")
    table.add_column("relevance", min_width=_BAR_WIDTH)
    table.add_column("", justify="right")
    table.add_column("document", no_wrap=True, overflow="ellipsis", ratio=1)
    for rank, result in enumerate(results, start=1):
        relevance: float = result["relevance_score"]
        dim = threshold is not None and relevance < threshold
        table.add_row(
            str(rank),
            "█" * round(relevance * _BAR_WIDTH),
            f"{relevance:.3f}",
            Text(result["document"]["text"]),
            style="dim" if dim else None,
        )
    return table


def _vectors(client: openai.OpenAI, texts: Sequence[str], options: Mapping[str, object]) -> Iterator[list[float]]:
    for start in range(0, len(texts), _TEXTS_PER_REQUEST):
        part = list(texts[start : start + _TEXTS_PER_REQUEST])
        try:
            answer = client.embeddings.create(model="", input=part, extra_body=options)  # they say which model, or none
        except openai.APIStatusError as error:
            raise MeshFailure(_refusal(error, texts, start)) from error
        yield from (each.embedding for each in answer.data)


def _refusal(error: openai.APIStatusError, texts: Sequence[str], start: int) -> str:
    """The server's words, but a text is named by its number among all and by how it begins; a file has empty lines."""

    def name(found: re.Match[str]) -> str:
        index = start + int(found[1])
        return f"text {index + 1} ({''.join(texts[index : index + 1])[:_NAME_LENGTH]}…)"

    return _INPUT.sub(name, one_line(error))
