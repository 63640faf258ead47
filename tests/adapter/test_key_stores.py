"""Keys, usage and limits against a real SQLite, PostgreSQL and Redis, also while one of them is away."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest

from meshkit.errors import MeshError, Reason
from services.gateway.tenancy.directory import OUTAGE_S, TRUST_S, KeyDirectory
from services.gateway.tenancy.keys import Limits, hash_secret
from services.gateway.tenancy.ledger import Ledger
from services.gateway.tenancy.store import Store
from services.gateway.tenancy.uses import Slot, StoreFailure, Use
from services.gateway.tenancy.windows import Windows
from tests.fixtures.servers import running_postgres, running_redis

TODAY = date(2026, 11, 24)
LIMITS = Limits(("a", "b"), 1, 2, 3, 4, strict=True)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/keys.sqlite3"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A key's name that no other test of the same database uses."""
    return request.node.name


def test_a_key_is_found_as_it_was_made(store: Store, name: str) -> None:
    key, secret = store.create_key(name, "t", LIMITS)

    assert store.find_key(hash_secret(secret)) == key
    assert key in store.list_keys()
    assert store.revoke_key(name).revoked_at is not None
    with pytest.raises(StoreFailure, match="already"):
        store.create_key(name, "t", LIMITS)


@pytest.mark.parametrize("what", ["name", "tenant"])
@pytest.mark.parametrize("name", ["", "  ", "x" * 129])
def test_a_name_that_is_empty_or_too_long_for_the_database_is_refused(store: Store, what: str, name: str) -> None:
    names = {"name": "good", "tenant": "t", what: name}

    with pytest.raises(StoreFailure, match=f"the {what} has {len(name.strip())} characters; it must have 1 to 128"):
        store.create_key(**names, limits=LIMITS)


@pytest.mark.parametrize("url", ["postgresql://mesh:p@s3cret:w0rd@host/keys", "s3cret:w0rd"])
def test_what_is_no_url_is_said_without_its_password(url: str) -> None:
    with pytest.raises(StoreFailure, match="no database's URL") as failure:
        Store.open(url)

    assert "s3cret" not in str(failure.value) and "w0rd" not in str(failure.value)
    assert failure.value.__suppress_context__


def test_many_gateways_may_open_one_new_database_at_once() -> None:
    with running_postgres() as url, ThreadPoolExecutor(8) as threads:
        for store in threads.map(Store.open, [url] * 8):
            store.close()


def test_use_noted_by_several_gateways_at_once_adds_up(store: Store, name: str) -> None:
    key, _ = store.create_key(name, "t", LIMITS)
    uses = {Slot(key.id, TODAY, model): Use(1, 2, 3) for model in ("a", "b")}

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(store.add_use, [uses] * 20))

    assert store.use(TODAY, TODAY, key.id) == {slot: Use(20, 40, 60) for slot in uses}
    assert store.tokens_since(key.id, TODAY) == 200


async def test_a_revoked_key_stops_within_the_time_it_is_trusted(store: Store, name: str) -> None:
    now_s = 0.0
    directory = KeyDirectory(store, on_read=lambda _: None, clock=lambda: now_s)
    _, secret = store.create_key(name, "t", LIMITS)
    first = await directory.find(secret)
    store.revoke_key(name)

    now_s = TRUST_S - 0.1
    trusted = await directory.find(secret)
    now_s = TRUST_S
    refused = await directory.find(secret)

    assert first == trusted and first is not None
    assert refused is None
    directory.close()


async def test_without_a_database_known_keys_go_on_for_a_while_and_others_do_not() -> None:
    now_s = 0.0
    with running_postgres() as url:
        store = Store.open(url)
        directory = KeyDirectory(store, on_read=lambda _: None, clock=lambda: now_s)
        ledger = Ledger(store)
        key, secret = store.create_key("known", "t", LIMITS)
        _, other = store.create_key("other", "t", LIMITS)
        known = await directory.find(secret)

    ledger.note(key.id, "m", Use(1, 2, 3))
    await ledger.flush()  # keeps what it could not write
    now_s = TRUST_S
    assert await directory.find(secret) == known
    for later_s, unknown in ((TRUST_S, other), (OUTAGE_S + TRUST_S, secret)):
        now_s = later_s
        with pytest.raises(MeshError) as caught:
            await directory.find(unknown)
        assert caught.value.reason is Reason.NOT_READY
    assert ledger.tokens_since_mark(key.id) == 5
    directory.close()
    store.close()


async def test_gateways_count_together_through_redis() -> None:
    with running_redis() as url:
        one, two = Windows(url), Windows(url)

        sums = [(await each.add("k", minute, 5)).total for each, minute in ((one, 1), (two, 1), (two, 2))]
        await one.correct("k", 1, -3, is_shared=True)
        sums.append((await two.add("k", 1, 0)).total)

        await one.close()
        await two.close()
    assert sums == [5, 10, 5, 7]


async def test_no_count_is_lost_when_many_gateways_count_at_once() -> None:
    with running_redis() as url:
        gateways = [Windows(url) for _ in range(4)]

        sums = await asyncio.gather(*(gateway.add("k", 1, 1) for gateway in gateways for _ in range(20)))

        for gateway in gateways:
            await gateway.close()
    assert sorted(count.total for count in sums) == list(range(1, 81))


async def test_while_redis_is_away_a_gateway_counts_alone_and_joins_again() -> None:
    now_s = 0.0
    with running_redis() as url:
        windows = Windows(url, clock=lambda: now_s)
        shared = await windows.add("k", 1, 5)

    alone = [await windows.add("k", 1, 2), await windows.add("k", 1, 2)]
    await windows.correct("k", 1, -5, is_shared=True)  # what was never counted here
    unchanged = await windows.add("k", 1, 0)

    with running_redis(int(url.rpartition(":")[2].partition("/")[0])):
        now_s = 60.0  # after the pause
        again = await windows.add("k", 1, 1)
        await windows.correct("k", 1, -2, is_shared=False)
        shared_still = await windows.add("k", 1, 0)
        await windows.close()
    assert (shared, alone, unchanged) == ((5, True), [(2, False), (4, False)], (4, False))
    assert (again, shared_still) == ((1, True), (1, True))
