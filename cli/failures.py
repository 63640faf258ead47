"""Turns a failure into one message and an exit code, and a terminal that is gone into silence; decides no wording."""

from collections.abc import Generator
from contextlib import contextmanager, suppress

import typer

from mesh.failure import MeshFailure


class UsageFailure(Exception):
    """The command line asks for something it cannot have; exit code 2."""


@contextmanager
def shown_failures() -> Generator[None]:
    """Print what went wrong on standard error and leave with 1, or 2 for a wrong command line."""
    try:
        yield
    except UsageFailure as failure:
        typer.echo(f"zhinao: {failure}", err=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:  # `| head`: nobody reads on, and typer ends quietly
        raise
    except (MeshFailure, OSError) as failure:  # the latter: a folder that cannot be written, and the like
        typer.echo(f"zhinao: {_in_words(failure)}", err=True)
        raise typer.Exit(1) from None


def _in_words(failure: MeshFailure | OSError) -> str:
    """Its text; that of a system call names the file, and not the number of the error."""
    if isinstance(failure, OSError) and failure.strerror and failure.filename:
        return f"{failure.filename}: {failure.strerror}"
    return str(failure)


def say(line: str, *, err: bool = False) -> None:
    """Print a line if there is still somewhere to print it: a closed terminal or pipe must not end a teardown."""
    with suppress(OSError):
        typer.echo(line, err=err)
