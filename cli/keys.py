"""`zhinao keys` and `zhinao usage`: who may ask, how much, and what they used; and whether a mesh asks for keys."""

import json
import os
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Final

import typer

from cli.failures import UsageFailure
from cli.options import read_host
from cli.tables import open_console, table_for
from mesh.failure import MeshFailure
from mesh.plan import load_plan
from mesh.state import StateFolder
from services.gateway.tenancy.keys import Key, Limits
from services.gateway.tenancy.store import OWN_NAME, Store
from services.gateway.tenancy.uses import StoreFailure

DATABASE_VARIABLE: Final = "GATEWAY_DATABASE_URL"


def create_key(state: StateFolder, name: str, tenant: str | None, limits: Limits) -> None:
    """Make a key and print its secret, this once; and say so where a mesh runs that does not ask for it."""
    with _store(state) as store:
        key, secret = store.create_key(name, name if tenant is None else tenant, limits)
    typer.echo(f"key {key.name!r} of tenant {key.tenant!r}; its secret is shown this once:", err=True)
    typer.echo(secret)
    plan = load_plan(state.plan)
    if plan is not None and plan.options.database_url is None:
        typer.echo(f"{plan.edge} still serves whoever comes: it asks for keys after `zhinao down` and `up`", err=True)


def list_keys(state: StateFolder, as_json: bool) -> None:
    """Print all keys, without their secrets."""
    keys = _made_keys(state)
    if as_json:
        for key in keys:
            typer.echo(json.dumps(asdict(key), default=str))
        return
    columns = ("name", "tenant", "state", "models", "requests/min", "tokens/min", "at once", "tokens/month")
    console = open_console()
    console.print(table_for(console, columns, [_key_cells(key) for key in keys]))


def revoke_key(state: StateFolder, name: str) -> None:
    """End a key for good."""
    with _store(state) as store:
        store.revoke_key(name)
    typer.echo(f"revoked {name!r}; running gateways refuse it within 10 s")


def show_usage(state: StateFolder, start: date | None, end: date | None, as_json: bool) -> None:
    """Print what all keys used, by day and model; this month where no days are given."""
    last = end or datetime.now(UTC).date()
    with _store(state) as store:
        uses = store.use(start or last.replace(day=1), last)
        names = {key.id: key.name for key in store.list_keys()}
    lines = [
        {"day": slot.day.isoformat(), "key": names[slot.key_id], "model": slot.model, **asdict(use)}
        for slot, use in uses.items()
    ]
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
        return
    columns = ("day", "key", "model", "requests", "prompt tokens", "completion tokens")
    console = open_console()
    console.print(table_for(console, columns, [[str(value) for value in line.values()] for line in lines]))


def choose_database(state: StateFolder, host: str, *, insecure_no_keys: bool) -> str | None:
    """Where the keys of a mesh are that begins now; None if it asks for none.

    Keys are asked for once there was one. Raises UsageFailure where an edge would be open to others by oversight.
    """
    url = os.environ.get(DATABASE_VARIABLE)
    if insecure_no_keys:
        if url:
            raise UsageFailure(f"--insecure-no-keys contradicts {DATABASE_VARIABLE}; unset one of them")
        return None
    if url or (state.database.exists() and _made_keys(state)):
        return url or _own_url(state)
    if not read_host(host).is_loopback:
        raise UsageFailure(
            f"--host {host} lets others in and there are no keys: make one with `zhinao keys create NAME`, or say "
            "--insecure-no-keys to serve whoever comes"
        )
    return None


@contextmanager
def own_key(database_url: str | None) -> Generator[str | None]:
    """A key for the time of a start, where the mesh asks for one."""
    if database_url is None:
        yield None
        return
    with _failures(), closing(Store.open(database_url)) as store, store.lent_key() as secret:
        yield secret


def _key_cells(key: Key) -> list[str]:
    limits = key.limits
    counts = (limits.requests_per_minute, limits.tokens_per_minute, limits.max_concurrent, limits.tokens_per_month)
    state = "revoked" if key.revoked_at else "works"
    models = ", ".join(limits.models) or "all"
    return [key.name, key.tenant, state, models, *("-" if count is None else str(count) for count in counts)]


def _made_keys(state: StateFolder) -> list[Key]:
    """All but the one of `zhinao up`."""
    with _store(state) as store:
        return [key for key in store.list_keys() if key.name != OWN_NAME]


def _own_url(state: StateFolder) -> str:
    return f"sqlite:///{state.database}"


@contextmanager
def _store(state: StateFolder) -> Generator[Store]:
    url = os.environ.get(DATABASE_VARIABLE)
    with _failures():
        if not url:
            state.claim()
        with closing(Store.open(url or _own_url(state))) as store:
            yield store


@contextmanager
def _failures() -> Generator[None]:
    try:
        yield
    except StoreFailure as error:
        raise MeshFailure(str(error)) from None
