"""`zhinao status`: what each part does, as a table for people, once or again and again, or as JSON for scripts."""

import contextlib
import json
import time
from dataclasses import asdict, replace
from typing import Final

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.tables import open_console, table_for
from mesh.load import Load
from mesh.state import StateFolder
from mesh.status import MeshStatus, PartStatus, mesh_status, resident_bytes

EVERY_S: Final = 1.0
_SPARE: Final = ("grpc", "threads", "http", "pid")  # what a narrow terminal is spared
COLUMNS: Final = ("part", "state", "pid", "restarts", "running", "waiting", "KV", "threads", "memory", "http", "grpc")


def status(state: StateFolder, as_json: bool) -> None:
    """Print the status of the mesh in this folder."""
    found = mesh_status(state)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    elif found.edge is None:
        typer.echo(f"no mesh runs in {state.path}")
    else:
        console = open_console()
        console.print(_table(found, console))
        if any(part.state == "lost" for part in found.parts):
            typer.echo("the supervisor of this mesh is gone; zhinao down cleans up")


def watch_status(state: StateFolder) -> None:
    """Show the status in place until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), Live(auto_refresh=False) as live:
        while True:
            live.update(_fitting_table(mesh_status(state), live.console), refresh=True)
            time.sleep(EVERY_S)


def _fitting_table(found: MeshStatus, console: Console) -> Table:
    """As many parts as the terminal is high, first those that are not ready; below is said that there are more."""
    parts = sorted(found.parts, key=lambda part: part.state == "ready")
    table = _table(found, console)
    for num_shown in range(len(parts) - 1, 0, -1):
        if len(console.render_lines(table, pad=False)) <= console.height:
            break
        table = _table(replace(found, parts=tuple(parts[:num_shown])), console)
        more = f"in a higher terminal: all {len(parts)} parts"
        table.caption = f"{table.caption}; {more}" if table.caption else more
        table.caption_justify = "left"
    return table


def _table(found: MeshStatus, console: Console) -> Table:
    rows = [_cells(part) for part in found.parts]
    return table_for(console, COLUMNS, rows, title=found.edge or "no mesh runs", spare=_SPARE)


def _cells(part: PartStatus) -> list[str]:
    memory = f"{resident_bytes(part.pid) / 2**20:.0f} MiB" if part.pid else "-"
    ports = [address.rpartition(":")[2] if address else "-" for address in (part.http, part.grpc)]
    state = f"{part.state}, out" if part.serving is False and part.state == "ready" else part.state
    numbers = [str(each if each is not None else "-") for each in (part.pid, part.restarts)]
    threads = "-" if part.threads is None else str(part.threads)
    return [part.name, state, *numbers, *_load_cells(part.load), threads, memory, *ports]


def _load_cells(load: Load | None) -> list[str]:
    if load is None:
        return ["-", "-", "-"]
    return [str(load.running), str(load.waiting), "-" if load.kv_usage is None else f"{load.kv_usage:.0%}"]
