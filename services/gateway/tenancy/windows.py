"""Counts per minute, shared by all gateways through Redis; while Redis is away each gateway counts alone."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.errors import StorageError

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

log = logging.getLogger(__name__)

WINDOW_S: Final = 60
_ANSWER_S: Final = 0.25  # a Redis that takes longer is away
_PAUSE_S: Final = 5.0  # between two tries


class Count(NamedTuple):
    """What a counter holds, and whether that is Redis' or this gateway's own."""

    total: int
    is_shared: bool


class Windows:
    """Counters that begin at zero each minute of the clock, which all gateways share."""

    def __init__(self, redis_url: str | None, clock: Callable[[], float] = time.time) -> None:
        self._own = MemoryStorage()
        self._shared: Storage | None = None
        self._pool: ConnectionPool | None = None
        if redis_url is not None:
            pool = _open_pool(redis_url)
            self._shared = RedisStorage(
                f"async+{redis_url}",
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix="zhinao-mesh",
                connection_pool=pool,  # pyright: ignore[reportArgumentType] -- documented, and not in its types
            )
            self._pool = pool
        self._away_until_s = 0.0
        self.clock = clock

    def now(self) -> int:
        """The present minute, as a number."""
        return int(self.clock() // WINDOW_S)

    def remaining_s(self) -> float:
        """Until the present minute ends and its counters are forgotten."""
        return WINDOW_S - self.clock() % WINDOW_S

    async def add(self, counter: str, minute: int, amount: int) -> Count:
        """Add to a counter of that minute; returns what it then holds."""
        name = f"{counter}/{minute}"
        if (total := await self._add_shared(name, amount)) is not None:
            return Count(total, is_shared=True)
        return Count(await self._own.incr(name, WINDOW_S, amount), is_shared=False)

    async def correct(self, counter: str, minute: int, change: int, *, is_shared: bool) -> None:
        """Change what was added there; Redis forgets what it cannot be told with the minute."""
        name = f"{counter}/{minute}"
        if is_shared:
            await self._add_shared(name, change)
        else:
            await self._own.incr(name, WINDOW_S, change)

    async def _add_shared(self, name: str, amount: int) -> int | None:
        if self._shared is None or self.clock() < self._away_until_s:
            return None
        try:
            async with asyncio.timeout(2 * _ANSWER_S):
                return await self._shared.incr(name, WINDOW_S, amount)
        except (StorageError, OSError, TimeoutError) as error:
            self._away_until_s = self.clock() + _PAUSE_S
            log.warning("Redis is away, limits hold for this gateway alone: %s", error)
            return None

    async def close(self) -> None:
        """Let go of Redis."""
        if self._pool is not None:
            await self._pool.disconnect()


def _open_pool(redis_url: str) -> "ConnectionPool":
    from redis.asyncio import ConnectionPool  # a gateway that counts alone never pays for it

    return ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType] -- its options have no types
        redis_url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S
    )
