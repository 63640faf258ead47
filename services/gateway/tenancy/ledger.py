"""Decides when what was used reaches the usage table: in batches, off the request's path, and at a shutdown."""

import asyncio
import logging
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from services.gateway.tenancy.uses import Slot, StoreFailure, Use

if TYPE_CHECKING:  # it loads the database's libraries
    from services.gateway.tenancy.store import Store

log = logging.getLogger(__name__)

FLUSH_S: Final = 5.0  # what a gateway that is killed forgets


class Ledger:
    """What this gateway's keys used. Its event loop owns it; only `mark` is called from another thread."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._pending: defaultdict[Slot, Use] = defaultdict(Use)
        self._noted: Counter[str] = Counter()  # tokens by key, since the start
        self._written: Counter[str] = Counter()  # of those, the ones in the database
        self._marks: dict[str, int] = {}
        self._writing = asyncio.Lock()

    def note(self, key_id: str, model: str, use: Use) -> None:
        """Remember what one request used."""
        self._pending[Slot(key_id, datetime.now(UTC).date(), model)] += use
        self._noted[key_id] += use.tokens

    def mark(self, key_id: str) -> None:
        """A key's sum is about to be read from the database."""
        self._marks[key_id] = self._written[key_id]

    def tokens_since_mark(self, key_id: str) -> int:
        """Tokens that this gateway noted and the last sum read of the key does not hold."""
        return self._noted[key_id] - self._marks.get(key_id, 0)

    async def flush(self) -> None:
        """Write what is pending; what could not be written stays pending, and is written though the caller leaves."""
        await asyncio.shield(self._write())

    async def _write(self) -> None:
        async with self._writing:
            batch, self._pending = self._pending, defaultdict(Use)
            try:
                await asyncio.to_thread(self._store.add_use, batch)
            except StoreFailure as error:
                log.error("usage of %d keys, models and days waits for its database: %s", len(batch), error)
                for slot, use in batch.items():
                    self._pending[slot] += use
                return
            for slot, use in batch.items():
                self._written[slot.key_id] += use.tokens

    async def run(self) -> None:
        """Flush for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()
