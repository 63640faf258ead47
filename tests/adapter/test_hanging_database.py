"""A real PostgreSQL that hangs, as one whose machine is gone: its connections are open, and nothing answers."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from meshkit.errors import MeshError, Reason
from services.gateway.call import begin_call
from services.gateway.tenancy.directory import TRUST_S, KeyDirectory
from services.gateway.tenancy.keys import Limits, hash_secret
from services.gateway.tenancy.store import Store
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.tenancy.uses import Slot, StoreFailure, Use, first_of_month
from tests.adapter.test_key_stores import TODAY
from tests.fixtures.servers import hanging_postgres, running_postgres

SOON_S = 10.0  # a look before use, a new connection, and room for a busy machine


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, key_id: store.find_key(hash_secret("x")),
        lambda store, key_id: store.tokens_since(key_id, first_of_month(TODAY)),
        lambda store, key_id: store.add_use({Slot(key_id, TODAY, "m"): Use(1, 2, 3)}),
    ],
    ids=["key", "sum", "use"],
)
def test_it_is_given_up_soon_and_asked_again_once_it_answers(store: Store, ask: Callable[[Store, str], object]) -> None:
    key, _ = store.create_key(f"again {time.monotonic()}", "t", Limits())
    ask(store, key.id)
    begun_s = time.monotonic()

    with hanging_postgres(str(store._engine.url)), pytest.raises(StoreFailure):
        ask(store, key.id)

    assert time.monotonic() - begun_s < SOON_S
    ask(store, key.id)


async def test_known_keys_go_on_without_a_wait_and_others_hear_soon_that_they_cannot_be_looked_up(
    url: str, store: Store
) -> None:
    ahead_s = 0.0
    directory = KeyDirectory(store, on_read=lambda _: None, clock=lambda: time.monotonic() + ahead_s)
    secrets = [store.create_key(f"known {number}", "t", Limits())[1] for number in range(20)]
    known = [await directory.find(secret) for secret in secrets]
    _, other = store.create_key("other", "t", Limits())

    with hanging_postgres(url):
        begun_s = time.monotonic()
        ahead_s = TRUST_S - 3  # they are read again, and trusted however long the lines above took
        fresh = [await directory.find(secret) for secret in secrets]
        waited_s = time.monotonic() - begun_s
        ahead_s = TRUST_S
        late = await asyncio.gather(*map(directory.find, secrets))
        with pytest.raises(MeshError) as refused:
            await directory.find(other)
        took_s = time.monotonic() - begun_s

    assert known == fresh == late
    assert refused.value.reason is Reason.NOT_READY
    assert waited_s < 1 and took_s < SOON_S
    directory.close()


async def test_a_gateway_ends_though_its_usage_cannot_be_written(url: str) -> None:
    opened = Tenancy.open(url, None)
    tenancy = await opened.__aenter__()
    key, secret = tenancy._store.create_key("ends", "t", Limits())
    await tenancy.authenticate(begin_call(None, None, None), f"Bearer {secret}")
    tenancy._ledger.note(key.id, "m", Use(1, 2, 3))

    with hanging_postgres(url):
        begun_s = time.monotonic()
        await opened.__aexit__(None, None, None)
        took_s = time.monotonic() - begun_s

    assert took_s < SOON_S
