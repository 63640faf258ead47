"""Decides how keys and usage are read and written; blocks, so a gateway calls it from a thread."""

import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, func, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from services.gateway.tenancy.keys import Key, Limits, hash_secret, new_secret
from services.gateway.tenancy.schema import NAME_LENGTH, KeyRow, UsageRow
from services.gateway.tenancy.uses import Slot, StoreFailure, Use

OWN_NAME: Final = "zhinao-up"  # of the key that `zhinao up` asks its first questions with
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 8360  # any number that all gateways agree on
_WAIT_S: Final = 2  # for another writer of SQLite


class Store:
    """Keys and usage in SQLite or PostgreSQL. Every method raises StoreFailure when the database fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> "Store":
        """Connect to `sqlite:///PATH` or `postgresql://…` and bring its tables to the present form."""
        with _failures():
            store = cls(_engine(url))
            store._migrate()
        return store

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    def create_key(self, name: str, tenant: str, limits: Limits) -> tuple[Key, str]:
        """Make a key; its secret is returned here and nowhere else.

        Raises StoreFailure if a name is empty or too long, or the key's taken or the one of `zhinao up`.
        """
        for what, given in (("name", name), ("tenant", tenant)):
            if not given.strip() or len(given) > NAME_LENGTH:
                raise StoreFailure(f"the {what} has {len(given.strip())} characters; it must have 1 to {NAME_LENGTH}")
        if name == OWN_NAME:
            raise StoreFailure(
                f"{OWN_NAME!r} is the key with which zhinao up asks its first questions; choose another name"
            )
        return self._add_key(name, tenant, limits)

    def _add_key(self, name: str, tenant: str, limits: Limits) -> tuple[Key, str]:
        secret = new_secret()
        key = Key(secrets.token_hex(6), name, tenant, limits, created_at=datetime.now(UTC))
        row = KeyRow(
            id=key.id,
            name=name,
            tenant=tenant,
            secret_sha256=hash_secret(secret),
            created_at=key.created_at,
            **{**asdict(limits), "models": list(limits.models)},
        )
        try:
            with self._session() as session:
                session.add(row)
        except IntegrityError:
            raise StoreFailure(f"there is a key called {name!r} already; names are not used twice") from None
        return key, secret

    @contextmanager
    def lent_key(self) -> Generator[str]:
        """A key called OWN_NAME that works, whatever the one before it was, until the end of the block; its secret."""
        secret = new_secret()
        with _failures(), self._session() as session:
            row = session.scalar(select(KeyRow).where(KeyRow.name == OWN_NAME))
            if row is not None:
                row.secret_sha256, row.revoked_at = hash_secret(secret), None
        if row is None:
            secret = self._add_key(OWN_NAME, OWN_NAME, Limits())[1]
        try:
            yield secret
        finally:
            self.revoke_key(OWN_NAME)

    def list_keys(self) -> list[Key]:
        """All keys ever made, oldest first."""
        with _failures(), self._session() as session:
            return [_to_key(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id))]

    def revoke_key(self, name: str) -> Key:
        """End a key for good; to end it twice changes nothing. StoreFailure if there is none of that name."""
        with _failures(), self._session() as session:
            row = session.scalar(select(KeyRow).where(KeyRow.name == name))
            if row is None:
                raise StoreFailure(f"there is no key called {name!r}")
            row.revoked_at = row.revoked_at or datetime.now(UTC)
            return _to_key(row)

    def find_key(self, secret_sha256: str) -> Key | None:
        """The key of that hash, revoked or not."""
        with _failures(), self._session() as session:
            row = session.scalar(select(KeyRow).where(KeyRow.secret_sha256 == secret_sha256))
            return None if row is None else _to_key(row)

    def add_use(self, uses: Mapping[Slot, Use]) -> None:
        """Add to the usage table, all or nothing."""
        if not uses:
            return
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        statement = insert(UsageRow)
        sums = {
            name: getattr(UsageRow, name) + statement.excluded[name]
            for name in ("requests", "prompt_tokens", "completion_tokens")
        }
        rows = [
            {**asdict(slot), **asdict(use)}
            for slot, use in sorted(uses.items(), key=lambda item: (item[0].key_id, item[0].day, item[0].model))
        ]  # one order for all gateways: no deadlocks
        with _failures(), self._session() as session:
            session.execute(statement.on_conflict_do_update(index_elements=["key_id", "day", "model"], set_=sums), rows)

    def use(self, first: date, last: date, key_id: str | None = None) -> dict[Slot, Use]:
        """What was used from the first day to the last one, by all keys or by one, in order of day."""
        query = select(UsageRow).where(UsageRow.day.between(first, last))
        if key_id is not None:
            query = query.where(UsageRow.key_id == key_id)
        with _failures(), self._session() as session:
            rows = session.scalars(query.order_by(UsageRow.day, UsageRow.key_id, UsageRow.model))
            return {
                Slot(row.key_id, row.day, row.model): Use(row.requests, row.prompt_tokens, row.completion_tokens)
                for row in rows
            }

    def tokens_since(self, key_id: str, first: date) -> int:
        """Tokens that a key used on that day and later."""
        tokens = func.coalesce(func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens), 0)
        with _failures(), self._session() as session:
            return int(session.scalar(select(tokens).where(UsageRow.key_id == key_id, UsageRow.day >= first)) or 0)

    @contextmanager
    def _session(self) -> Generator[Session]:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # several gateways may start at once
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the text of the latter may hold a part of the password
        raise StoreFailure(
            "this is no database's URL; in its password @, : and / are written %40, %3A and %2F"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).touch(mode=0o600)
        return create_engine(parsed, connect_args={"timeout": _WAIT_S})
    from services.gateway.tenancy.postgres import postgres_engine  # who keeps keys in SQLite never pays for it

    return postgres_engine(parsed)


@contextmanager
def _failures() -> Generator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise StoreFailure(str(getattr(error, "orig", None) or error).strip()) from error


def _to_key(row: KeyRow) -> Key:
    limits = Limits(
        tuple(row.models),
        row.requests_per_minute,
        row.tokens_per_minute,
        row.max_concurrent,
        row.tokens_per_month,
        row.strict,
    )
    return Key(row.id, row.name, row.tenant, limits, _utc(row.created_at), row.revoked_at and _utc(row.revoked_at))


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)  # SQLite keeps no zone
