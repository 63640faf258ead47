"""What was used reaches the usage table once, whoever leaves while it is written."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from threading import Event
from typing import cast

import pytest

from services.gateway.tenancy.ledger import Ledger
from services.gateway.tenancy.store import Store
from services.gateway.tenancy.uses import Slot, StoreFailure, Use

pytestmark = pytest.mark.asyncio(loop_scope="function")


class StoreThatTakesItsTime:
    """Writes once it is let, but for the first batch if it is told to fail."""

    def __init__(self, *, fails_first: bool) -> None:
        self.let, self.written = Event(), list[Use]()
        self._fails = fails_first

    def add_use(self, uses: Mapping[Slot, Use]) -> None:
        if uses:
            self.let.wait(5)
            if self._fails:
                self._fails = False
                raise StoreFailure("away")
            self.written.extend(uses.values())


@pytest.mark.parametrize("fails_first", [False, True])
async def test_a_batch_is_written_once_though_who_began_to_write_it_left(*, fails_first: bool) -> None:
    store = StoreThatTakesItsTime(fails_first=fails_first)
    ledger = Ledger(cast("Store", store))
    ledger.note("k", "m", Use(1, 2, 3))

    flushing = asyncio.create_task(ledger.flush())
    await asyncio.sleep(0.05)
    flushing.cancel()
    with suppress(asyncio.CancelledError):
        await flushing
    store.let.set()
    await ledger.flush()
    ledger.mark("k")

    assert store.written == [Use(1, 2, 3)]
    assert ledger.tokens_since_mark("k") == 0
