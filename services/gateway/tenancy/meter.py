"""Decides whether a key may have one more answer, and settles what the answer really cost; knows no protobuf."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from meshkit.errors import MeshError, Reason
from services.gateway.call import Call
from services.gateway.tenancy.keys import Grant
from services.gateway.tenancy.ledger import Ledger
from services.gateway.tenancy.uses import Use
from services.gateway.tenancy.windows import Windows

_CONCURRENT_RETRY_S = 1.0  # nobody knows when one of the client's own answers ends


@dataclass(slots=True)
class Receipt:
    """What questions to a worker cost: reserved before them, used after them, or if the client leaves. In tokens."""

    reserved: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    if_left: int = 0


class Meter:
    """The limits of all keys, in one gateway. Its event loop owns it."""

    def __init__(self, windows: Windows, ledger: Ledger) -> None:
        self._windows = windows
        self._ledger = ledger
        self._running: defaultdict[str, Counter[int]] = defaultdict(Counter)  # questions by key and by call
        self._reserved: Counter[str] = Counter()  # tokens by key, not settled yet
        self._settling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def reserve(self, call: Call, grant: Grant, model: str, tokens: int) -> AsyncGenerator[Receipt]:
        """Around one question to a worker, or several. Raises FORBIDDEN, or TENANT_LIMIT; a refusal costs nothing.

        tokens: a bound of what it may cost. A call that asks several questions counts as one request.
        """
        key_id = grant.key.id
        is_new = not call.is_counted
        self._check(call, grant, model, tokens)
        receipt = Receipt(tokens)
        self._running[key_id][id(call)] += 1
        self._reserved[key_id] += tokens
        use = Use()
        try:
            minute, is_shared = await self._enter(call, grant, int(is_new), tokens)
            call.is_counted = True
            try:
                yield receipt
            finally:
                use = Use(int(is_new), receipt.prompt_tokens, receipt.completion_tokens)
                self._settle(call, grant, minute, use.tokens - tokens, is_shared=is_shared)
        finally:
            self._reserved[key_id] -= tokens
            self._leave(key_id, call)
            if use.requests or use.tokens:
                self._ledger.note(key_id, model, use)

    @property
    def num_running(self) -> int:
        """Requests of all keys that are in progress."""
        return sum(map(len, self._running.values()))

    async def close(self) -> None:
        """Wait for the last settlements."""
        await asyncio.gather(*self._settling, return_exceptions=True)

    def _check(self, call: Call, grant: Grant, model: str, tokens: int) -> None:
        key, limits = grant.key, grant.key.limits
        limits.check_model(model)
        running = self._running[key.id]
        if limits.max_concurrent is not None and id(call) not in running and len(running) >= limits.max_concurrent:
            message = f"{len(running)} requests of this key are in progress, the limit is {limits.max_concurrent}"
            raise MeshError(Reason.TENANT_LIMIT, message, retry_after_s=_CONCURRENT_RETRY_S)
        if limits.tokens_per_month is not None:
            used = grant.month_tokens + self._ledger.tokens_since_mark(key.id) + self._reserved[key.id]
            if used + tokens > limits.tokens_per_month:
                message = (
                    f"this request may need {tokens} tokens, and {max(limits.tokens_per_month - used, 0)} of this "
                    f"month's {limits.tokens_per_month} are left"
                )
                raise MeshError(Reason.TENANT_LIMIT, message, code="insufficient_quota")

    async def _enter(self, call: Call, grant: Grant, requests: int, tokens: int) -> tuple[int, bool]:
        """Count in the present minute; returns it, and whether tokens are counted with other gateways.

        Raises TENANT_LIMIT, and then counts nothing.
        """
        key, limits, minute = grant.key, grant.key.limits, self._windows.now()
        asked = (
            ("requests", limits.requests_per_minute, requests),
            ("tokens", limits.tokens_per_minute, tokens),
        )
        counted = [(kind, limit, amount) for kind, limit, amount in asked if limit is not None]
        counts = await asyncio.gather(
            *(self._windows.add(f"{key.id}/{kind}", minute, amount) for kind, _, amount in counted)
        )
        for (kind, limit, amount), (total, _) in zip(counted, counts, strict=True):
            self._tell(call, kind, limit, limit - total)
            if amount and total > limit:
                for (other, _, back), (_, is_shared) in zip(counted, counts, strict=True):
                    await self._windows.correct(f"{key.id}/{other}", minute, -back, is_shared=is_shared)
                raise self._over(kind, limit, total - amount, amount)
        return minute, bool(counts) and counts[-1].is_shared

    def _over(self, kind: str, limit: int, used: int, amount: int) -> MeshError:
        message = (
            f"this request needs up to {amount} {kind}, and {max(limit - used, 0)} of the {limit} a minute are left"
        )
        never = amount > limit
        return MeshError(Reason.TENANT_LIMIT, message, retry_after_s=None if never else self._windows.remaining_s())

    def _tell(self, call: Call, kind: str, limit: int, left: int) -> None:
        call.limit_headers[f"x-ratelimit-limit-{kind}"] = str(limit)
        call.limit_headers[f"x-ratelimit-remaining-{kind}"] = str(max(left, 0))
        call.limit_headers[f"x-ratelimit-reset-{kind}"] = f"{self._windows.remaining_s():.3f}s"

    def _settle(self, call: Call, grant: Grant, minute: int, change: int, *, is_shared: bool) -> None:
        limit = grant.key.limits.tokens_per_minute
        if limit is None:
            return
        name = "x-ratelimit-remaining-tokens"
        call.limit_headers[name] = str(min(max(int(call.limit_headers[name]) - change, 0), limit))
        task = asyncio.create_task(self._windows.correct(f"{grant.key.id}/tokens", minute, change, is_shared=is_shared))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _leave(self, key_id: str, call: Call) -> None:
        running = self._running[key_id]
        running[id(call)] -= 1
        if not running[id(call)]:
            del running[id(call)]
        if not running:
            del self._running[key_id]
