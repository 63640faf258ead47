"""Two gateways in front of one PostgreSQL and one Redis: their clients meet the same keys, limits and usage."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.gateway.tenancy.keys import Limits
from services.gateway.tenancy.store import Store
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.tenancy.windows import WINDOW_S, Windows
from tests.contract.gateway.conftest import Mesh, running_mesh
from tests.fixtures.servers import running_postgres, running_redis

pytestmark = pytest.mark.asyncio(loop_scope="function")

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
HALF_PAST_S = 1_000_000 * WINDOW_S + 30.0
Gateways = tuple[Store, Mesh, Mesh]


@pytest_asyncio.fixture
async def gateways() -> AsyncIterator[Gateways]:
    """The store, and two gateways that were opened on it."""
    with running_postgres() as database_url, running_redis() as redis_url:
        tenancies = [Tenancy(Store.open(database_url), Windows(redis_url, clock=lambda: HALF_PAST_S)) for _ in range(2)]
        store = Store.open(database_url)
        async with running_mesh(tenancies[0]) as first, running_mesh(tenancies[1]) as second:
            yield store, first, second
        for tenancy in tenancies:
            await tenancy.close()
        store.close()


async def ask(mesh: Mesh, secret: str) -> Any:
    return await mesh.http.post("/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {secret}"})


async def test_two_gateways_count_a_keys_minute_together(gateways: Gateways) -> None:
    store, first, second = gateways
    _, secret = store.create_key("a", "t", Limits(requests_per_minute=3, tokens_per_minute=10_000))

    answers = [await ask(mesh, secret) for mesh in (first, second, first, second)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    left = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers[:3]]
    assert left[0] > left[1] > left[2]


async def test_what_a_key_used_at_one_gateway_is_told_by_the_other(gateways: Gateways) -> None:
    store, first, second = gateways
    _, secret = store.create_key("a", "t", Limits())
    headers = {"authorization": f"Bearer {secret}"}
    await ask(first, secret)
    await ask(second, secret)

    for mesh in (first, second):  # asked for its own uses, each writes them first
        answer = (await mesh.http.get("/v1/usage", headers=headers)).json()

    (line,) = answer["data"]
    assert (line["requests"], line["prompt_tokens"], line["completion_tokens"]) == (2, 10, 6)


async def test_a_key_revoked_for_one_gateway_works_at_no_other_that_reads_it(gateways: Gateways) -> None:
    store, first, second = gateways
    _, secret = store.create_key("a", "t", Limits())
    store.revoke_key("a")

    assert [(await ask(mesh, secret)).status_code for mesh in (first, second)] == [401, 401]
