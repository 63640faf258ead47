"""The `zhinao` command line: names, options and help texts; what they do is in the module of each command."""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from cli import up_options
from cli.failures import say, shown_failures
from cli.options import UpWords
from cli.plan import plan
from mesh.plan import EdgeLimits
from mesh.state import StateFolder, default_state_folder
from meshkit.settings import MAX_BODY_BYTES

EDGE: Final = "http://127.0.0.1:8360"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",  # paragraphs are broken where the terminal ends
    help="""Run and use a local mesh of Triton workers behind an OpenAI-compatible gateway.

    To begin: `zhinao up --detach`, then `zhinao chat`, and `zhinao down` in the end.""",
)

StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder of this mesh's files; default: under ~/.local/state.")
]


def _folder(path: Path | None) -> StateFolder:
    # os.path's leaves an unknown ~name as it is, and so do shells; Path's raises.
    return StateFolder(Path(os.path.expanduser(path or default_state_folder())).resolve())


@app.command()
def up(
    port: up_options.Port = 8360,
    host: up_options.Host = "127.0.0.1",
    state: StateOption = None,
    chat_model: up_options.ChatModel = None,
    embed_model: up_options.EmbedModel = None,
    rerank_model: up_options.RerankModel = None,
    model: up_options.OneMoreModel = None,
    served_model_name: up_options.ServedModelName = None,
    chat_dtype: up_options.ChatDtype = "auto",
    embed_dtype: up_options.EmbedDtype = "auto",
    rerank_dtype: up_options.RerankDtype = "auto",
    max_model_len: up_options.MaxModelLen = None,
    replicas: up_options.Replicas = "chat=1,embed=1,rerank=1",
    autoscale: up_options.Autoscale = "",
    gateway: up_options.Gateways = 1,
    max_body_bytes: up_options.MaxBodyBytes = MAX_BODY_BYTES,
    requests_per_second: up_options.RequestsPerSecond = None,
    insecure_no_keys: up_options.NoKeys = False,
    detach: up_options.Detach = False,
) -> None:
    """Start a mesh and wait until every part has answered."""
    from cli.up import up as run

    words = UpWords(
        host=host,
        port=port,
        sources={"chat": chat_model, "embed": embed_model, "rerank": rerank_model},
        models=model or [],
        served_model_names=served_model_name or [],
        dtypes={"chat": chat_dtype, "embed": embed_dtype, "rerank": rerank_dtype},
        max_model_len=max_model_len,
        replicas=replicas,
        autoscale=autoscale,
        num_gateways=gateway,
        limits=EdgeLimits(max_body_bytes, requests_per_second),
        insecure_no_keys=insecure_no_keys,
    )
    with shown_failures():
        run(words, _folder(state), detach)


@app.command()
def down(state: StateOption = None) -> None:
    """Stop a mesh and remove everything it left but its logs."""
    from mesh.teardown import bring_down, without_autoscaler

    with shown_failures():
        folder = _folder(state)
        if not folder.path.exists():
            typer.echo(f"no mesh was running: {folder.path} does not exist")
            return
        with without_autoscaler(folder):
            bring_down(folder, say)


@app.command()
def restart(
    state: StateOption = None,
    workers: Annotated[bool, typer.Option("--workers", help="Restart the workers too.")] = False,
) -> None:
    """Restart the gateways of a running mesh one after the other; where there are two of each, no request fails."""
    from mesh.restart import restart as run

    with shown_failures():
        folder = _folder(state)
        with folder.lock():
            run(folder, typer.echo, workers=workers)


@app.command()
def scale(
    numbers: Annotated[list[str], typer.Argument(help="KIND=NUMBER or MODEL=NUMBER of workers, e.g. chat=3.")],
    state: StateOption = None,
) -> None:
    """Change how many workers models of a running mesh have; those that leave let their answers end."""
    from cli.options import read_scale
    from mesh.scale import scale as run

    with shown_failures():
        folder = _folder(state)
        wanted = read_scale(numbers)
        with folder.lock():
            run(folder, wanted, typer.echo)


@app.command()
def status(
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print stable JSON for scripts.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew each second until Ctrl-C.")] = False,
) -> None:
    """Show every part of a mesh: state, process, restarts, load, memory, addresses."""
    from cli.status import status as run
    from cli.status import watch_status

    with shown_failures():
        if watch:
            watch_status(_folder(state))
        else:
            run(_folder(state), as_json)


@app.command()
def logs(
    part: Annotated[str | None, typer.Argument(help="Name of a part, as zhinao status shows it; default: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    state: StateOption = None,
) -> None:
    """Show the ends of the logs of a mesh; they stay until its next start."""
    from cli.logs import show_logs

    with shown_failures():
        show_logs(_folder(state), part, follow)


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for scripts.")]

app.command()(plan)

UrlOption = Annotated[
    str,
    typer.Option(
        envvar="OPENAI_BASE_URL", help="Edge of a mesh, or any server of the same API; the key is $OPENAI_API_KEY's."
    ),
]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="File with one text on each line; - is standard input.")
]


@app.command()
def chat(
    url: UrlOption = EDGE,
    model: Annotated[str | None, typer.Option(help="Served model id; default: the first chat model.")] = None,
    system: Annotated[str | None, typer.Option(help="System text of the conversation.")] = None,
) -> None:
    """Chat in the terminal; without a terminal, answer each line of standard input."""
    from cli.chat import chat as run

    with shown_failures():
        run(url, model, system)


@app.command()
def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; none reads a file or standard input.")] = None,
    file: FileOption = None,
    input_type: Annotated[
        str | None, typer.Option(help="What the texts are to a search: query or passage; default: neither.")
    ] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Length of the vectors; default: the model's.")] = None,
    truncate: Annotated[
        str | None, typer.Option(help="Cut a text that is too long at its end or start; default: error.")
    ] = None,
    url: UrlOption = EDGE,
    model: Annotated[str | None, typer.Option(help="Served model id; default: the first embedding model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how alike texts are, or print their vectors.

    zhinao embed "the sky" "blue" "a tax form"

    zhinao embed --file passages.txt --input-type passage --json > vectors.jsonl
    """
    from cli.search import embed as run
    from cli.search import read_texts

    options = {"input_type": input_type, "dimensions": dimensions, "truncate": truncate, "model": model}
    with shown_failures():
        run(url, read_texts(texts or [], file, what="texts"), options, as_json)


@app.command()
def rerank(
    query: Annotated[str, typer.Argument(help="What is looked for.")],
    documents: Annotated[list[str] | None, typer.Argument(help="Texts; none reads a file or standard input.")] = None,
    file: FileOption = None,
    top_n: Annotated[int | None, typer.Option(min=1, help="Show only the best; default: all.")] = None,
    url: UrlOption = EDGE,
    model: Annotated[str | None, typer.Option(help="Served model id; default: the first rerank model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Sort documents by how relevant they are to a query.

    zhinao rerank "What colour is the sky?" "It is blue." "Grass is green."

    grep -rh sky notes/ | zhinao rerank "What colour is the sky?" --top-n 3
    """
    from cli.search import read_texts
    from cli.search import rerank as run

    with shown_failures():
        run(url, query, read_texts(documents or [], file, what="documents"), {"top_n": top_n, "model": model}, as_json)


keys_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
app.add_typer(keys_app, name="keys")
LimitOption = Annotated[int | None, typer.Option(min=1, help="Default: no limit.")]
ConcurrencyOption = Annotated[int | None, typer.Option(min=1, help="Requests at once; default: no limit.")]


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Name of the key; none is used twice.")],
    tenant: Annotated[str | None, typer.Option(help="Whose it is; default: the key's name.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Model it may use, repeatable; default: all.")] = None,
    requests_per_minute: LimitOption = None,
    tokens_per_minute: LimitOption = None,
    max_concurrent: ConcurrencyOption = None,
    tokens_per_month: LimitOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse parameters that would have no effect.")] = False,
    state: StateOption = None,
) -> None:
    """Make a key and print its secret, this once.

    zhinao keys create acme --requests-per-minute 600 --tokens-per-minute 200000
    """
    from cli.keys import create_key
    from services.gateway.tenancy.keys import Limits

    limits = Limits(
        tuple(model or ()), requests_per_minute, tokens_per_minute, max_concurrent, tokens_per_month, strict
    )
    with shown_failures():
        create_key(_folder(state), name, tenant, limits)


@keys_app.command("list")
def keys_list(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show all keys ever made, without their secrets."""
    from cli.keys import list_keys

    with shown_failures():
        list_keys(_folder(state), as_json)


@keys_app.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="Name of the key.")], state: StateOption = None) -> None:
    """End a key for good."""
    from cli.keys import revoke_key

    with shown_failures():
        revoke_key(_folder(state), name)


DayOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day, UTC; default: this month.")]


@app.command()
def usage(
    start: DayOption = None, end: DayOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show what keys used, by day and model."""
    from cli.keys import show_usage

    with shown_failures():
        show_usage(_folder(state), start and start.date(), end and end.date(), as_json)
