"""Decides how a gateway connects to PostgreSQL, and when it gives up on one that does not answer."""

from typing import Any, Final

from psycopg import Connection, OperationalError
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Engine, create_engine, event
from typing_extensions import override

WAIT_S: Final = 2  # for a connection, or an answer; then the server itself ends a statement
_SILENCE_S: Final = 3.0  # a server that says nothing for longer is gone


class _Connection(Connection[Any]):
    """Closes itself when its server falls silent: a machine that is gone ends nothing, and TCP waits for hours."""

    @override
    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = _SILENCE_S) -> RV:
        try:
            return super().wait(gen, interval, timeout)
        except OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise  # it is the server's word
            self.pgconn.finish()
            raise OperationalError(f"the server did not answer within {timeout:g} s") from error


def postgres_engine(address: URL) -> Engine:
    """What connects to `postgresql://…` once somebody asks."""
    settings = {
        "connect_timeout": WAIT_S,
        "options": f"-c statement_timeout={WAIT_S * 1000}",
        "client_encoding": "utf8",  # a database made in the C locale would answer bytes
    }
    address = address.set(drivername="postgresql+psycopg")
    engine = create_engine(address, connect_args=settings, pool_pre_ping=True, pool_timeout=WAIT_S)

    @event.listens_for(engine, "do_connect")
    def connect(_: object, __: object, arguments: list[Any], named: dict[str, Any]) -> Connection[Any]:  # pyright: ignore[reportUnusedFunction]
        return _Connection.connect(*arguments, **named)

    return engine
