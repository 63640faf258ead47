"""Joins keys, limits and usage for one gateway, and decides who a client is."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import date
from typing import TYPE_CHECKING, Final

from meshkit.errors import MeshError, Reason
from services.gateway.call import Call
from services.gateway.tenancy.directory import KeyDirectory
from services.gateway.tenancy.ledger import Ledger
from services.gateway.tenancy.meter import Meter
from services.gateway.tenancy.uses import Slot, StoreFailure, Use
from services.gateway.tenancy.windows import Windows

if TYPE_CHECKING:
    from services.gateway.tenancy.store import Store

log = logging.getLogger(__name__)

_WRITE_S: Final = 8.0  # a database that takes longer to note what was used, or to tell it, is away


class Tenancy:
    """A mesh that asks for keys."""

    def __init__(self, store: "Store", windows: Windows) -> None:
        self._store = store
        self._windows = windows
        self._ledger = Ledger(store)
        self._directory = KeyDirectory(store, on_read=self._ledger.mark)
        self.meter = Meter(windows, self._ledger)

    @classmethod
    @asynccontextmanager
    async def open(cls, database_url: str, redis_url: str | None) -> "AsyncGenerator[Tenancy]":
        """Connect; at the end write what was used. Raises StoreFailure if the database does not answer."""
        from services.gateway.tenancy.store import Store  # a mesh without keys never pays for its libraries

        tenancy = cls(await asyncio.to_thread(Store.open, database_url), Windows(redis_url))
        writing = asyncio.create_task(tenancy._ledger.run())
        try:
            yield tenancy
        finally:
            writing.cancel()
            await tenancy.close()

    async def authenticate(self, call: Call, authorization: str | None) -> None:
        """Note in the call whose it is. UNAUTHENTICATED without a key that works; NOT_READY if that is unknown."""
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise MeshError(Reason.UNAUTHENTICATED, "send an API key as `Authorization: Bearer KEY`")
        call.tenant = ""
        grant = await self._directory.find(secret.strip())
        if grant is None:
            raise MeshError(Reason.UNAUTHENTICATED, "the API key is unknown or was revoked")
        call.grant, call.tenant, call.strict = grant, grant.key.tenant, grant.key.limits.strict

    async def use(self, key_id: str, first: date, last: date) -> dict[Slot, Use]:
        """What a key used from the first day to the last, requests that just ended included; NOT_READY if unknown."""
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._ledger.flush()
                return await asyncio.to_thread(self._store.use, first, last, key_id)
        except (StoreFailure, TimeoutError) as error:
            log.error("usage could not be looked up: %s", error or f"no answer within {_WRITE_S:g} s")
            raise MeshError(Reason.NOT_READY, "usage cannot be looked up at the moment") from error

    async def close(self) -> None:
        """Write what was used, and let go of the database."""
        await self.meter.close()
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._ledger.flush()
        except TimeoutError:
            log.error("what was used last is lost: its database did not answer within %g s", _WRITE_S)
        await self._windows.close()
        self._directory.close()
        self._store.close()
