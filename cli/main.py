"""The `zhinao` command line: names, options and help texts; what they do is in the module of each command."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.failures import shown_failures
from cli.options import CHAT_DTYPES, UpWords
from mesh.state import StateFolder, default_state_folder

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Run and use a local mesh of Triton workers behind an OpenAI-compatible gateway.",
)

StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder of this mesh's files; default: under ~/.local/state.")
]


def _folder(path: Path | None) -> StateFolder:
    # os.path's leaves an unknown ~name as it is, and so do shells; Path's raises.
    return StateFolder(Path(os.path.expanduser(path or default_state_folder())).resolve())


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the edge: REST and gRPC.")] = 8360,
    host: Annotated[str, typer.Option(help="Address of the edge; all other parts stay on loopback.")] = "127.0.0.1",
    state: StateOption = None,
    chat_model: Annotated[
        str | None, typer.Option(help="Folder or Hugging Face name of a chat model; default: the demo model.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="ID=KIND:PATH, one more model; may be repeated. KIND: chat.")
    ] = None,
    served_model_name: Annotated[list[str] | None, typer.Option(help="chat=ID, the id of --chat-model.")] = None,
    chat_dtype: Annotated[
        str, typer.Option(help=f"Number format of the chat models' weights: {', '.join(CHAT_DTYPES)}.")
    ] = "auto",
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt and answer together, in tokens; default: the model's.")
    ] = None,
    replicas: Annotated[str, typer.Option(help="Workers per model, e.g. chat=1; chat=0 leaves chat out.")] = "chat=1",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the mesh is ready; it goes on running.")
    ] = False,
) -> None:
    """Start a mesh and wait until every part has answered."""
    from cli.up import up as run

    words = UpWords(host, port, chat_model, model or [], served_model_name or [], chat_dtype, max_model_len, replicas)
    with shown_failures():
        run(words, _folder(state), detach)


@app.command()
def down(state: StateOption = None) -> None:
    """Stop a mesh and remove everything it left but its logs."""
    from mesh.teardown import bring_down

    with shown_failures():
        folder = _folder(state)
        with folder.lock():
            bring_down(folder, typer.echo)


@app.command()
def status(
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print stable JSON for scripts.")] = False,
) -> None:
    """Show every part of a mesh: state, process, restarts, memory, addresses."""
    from cli.status import status as run

    with shown_failures():
        run(_folder(state), as_json)


@app.command()
def chat(
    url: Annotated[
        str, typer.Option(help="Edge of a mesh, or any OpenAI-compatible server.")
    ] = "http://127.0.0.1:8360",
    model: Annotated[str | None, typer.Option(help="Served model id; default: the first one.")] = None,
    system: Annotated[str | None, typer.Option(help="System text of the conversation.")] = None,
) -> None:
    """Chat in the terminal; without a terminal, answer each line of standard input."""
    from cli.chat import chat as run

    with shown_failures():
        run(url, model, system)
