"""`zhinao status`: prints what each part does, as a table for people or as JSON for scripts."""

import json
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from mesh.state import StateFolder
from mesh.status import MeshStatus, mesh_status, resident_bytes


def status(state: StateFolder, as_json: bool) -> None:
    """Print the status of the mesh in this folder."""
    found = mesh_status(state)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    elif found.edge is None:
        typer.echo(f"no mesh runs in {state.path}")
    else:
        _print_table(found)


def _print_table(found: MeshStatus) -> None:
    table = Table(title=found.edge, title_justify="left", box=None)
    for column in ("part", "state", "pid", "restarts", "memory", "http", "grpc"):
        table.add_column(column, no_wrap=True, overflow="fold")
    for part in found.parts:
        memory = f"{resident_bytes(part.pid) / 2**20:.0f} MiB" if part.pid else "-"
        ports = [address.rpartition(":")[2] if address else "-" for address in (part.http, part.grpc)]
        table.add_row(part.name, part.state, str(part.pid or "-"), str(part.restarts), memory, *ports)
    Console().print(table)
    if any(part.state == "lost" for part in found.parts):
        typer.echo("the supervisor of this mesh is gone; zhinao down cleans up")
