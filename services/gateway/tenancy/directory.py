"""Decides how long a gateway trusts what it read of a key: a request costs no round trip to the database."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from meshkit.errors import MeshError, Reason
from services.gateway.tenancy.keys import Grant, hash_secret, is_secret
from services.gateway.tenancy.uses import StoreFailure, first_of_month

if TYPE_CHECKING:  # it loads the database's libraries
    from services.gateway.tenancy.store import Store

log = logging.getLogger(__name__)

TRUST_S: Final = 10.0  # a revoked key works no longer than this
OUTAGE_S: Final = 300.0  # with the database away, a key that was good goes on for this long
_AHEAD_S: Final = 4.0  # so long before its trust ends a key in use is read again, while it goes on
_ANSWER_S: Final = 3.0  # a database that takes longer is away
_MOST_KEYS: Final = 10_000  # remembered at once, unknown ones included


@dataclass(slots=True)
class _Entry:
    grant: Grant | None  # None: no such key, or revoked
    read_s: float
    trusted_until_s: float


class KeyDirectory:
    """The keys of the database, as one gateway sees them. on_read is called with a key's id before it is read."""

    def __init__(
        self, store: "Store", *, on_read: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._on_read = on_read
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._reading: dict[str, asyncio.Task[_Entry]] = {}
        self._threads = ThreadPoolExecutor(2, "keys")  # a database that hangs must not hold up other threads

    async def find(self, secret: str) -> Grant | None:
        """The key of that secret, or None if there is none that works. NOT_READY if that cannot be known now."""
        if not is_secret(secret):
            return None
        hashed = hash_secret(secret)
        entry, now_s = self._entries.get(hashed), self._clock()
        if entry is None or now_s >= entry.trusted_until_s - _AHEAD_S:
            reading = self._reading.get(hashed) or self._begin_reading(hashed, entry)
            if entry is None or now_s >= entry.trusted_until_s:
                entry = await asyncio.shield(reading)
        return entry.grant

    def close(self) -> None:
        """Read no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin_reading(self, hashed: str, known: _Entry | None) -> asyncio.Task[_Entry]:
        reading = self._reading[hashed] = asyncio.create_task(self._read(hashed, known))
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait for it
        return reading

    async def _read(self, hashed: str, known: _Entry | None) -> _Entry:
        now_s = self._clock()
        try:
            entry = _Entry(await self._ask(hashed), now_s, now_s + TRUST_S)
        except StoreFailure as error:
            if known is None or now_s >= known.read_s + OUTAGE_S:
                log.error("a key could not be looked up: %s", error)
                raise MeshError(Reason.NOT_READY, "keys cannot be looked up at the moment") from error
            log.warning("the keys' database is away, known keys go on: %s", error)
            entry = _Entry(known.grant, known.read_s, now_s + TRUST_S)
        finally:
            del self._reading[hashed]
        self._entries[hashed] = entry
        self._entries.move_to_end(hashed)
        while len(self._entries) > _MOST_KEYS:
            self._entries.popitem(last=False)
        return entry

    async def _ask(self, hashed: str) -> Grant | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._read_now, hashed)
        except TimeoutError as error:  # of the database, or of others before it: there are two threads
            raise StoreFailure(f"no answer within {_ANSWER_S:g} s") from error

    def _read_now(self, hashed: str) -> Grant | None:
        key = self._store.find_key(hashed)
        if key is None or key.revoked_at is not None:
            return None
        self._on_read(key.id)
        return Grant(key, self._store.tokens_since(key.id, first_of_month(datetime.now(UTC).date())))
