"""Joins keys, limits and usage for one gateway, and decides who a client is."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import date
from typing import TYPE_CHECKING

from meshkit.errors import MeshError, Reason
from services.gateway.call import Call
from services.gateway.tenancy.directory import KeyDirectory
from services.gateway.tenancy.ledger import Ledger
from services.gateway.tenancy.meter import Meter
from services.gateway.tenancy.uses import Slot, Use
from services.gateway.tenancy.windows import Windows

if TYPE_CHECKING:
    from services.gateway.tenancy.store import Store


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
        """What a key used from the first day to the last, requests that just ended included."""
        await self._ledger.flush()
        return await asyncio.to_thread(self._store.use, first, last, key_id)

    async def close(self) -> None:
        """Write what was used, and let go of the database."""
        await self.meter.close()
        await self._ledger.flush()
        await self._windows.close()
        self._directory.close()
        self._store.close()
