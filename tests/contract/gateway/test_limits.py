"""The limits of a key: what is left of them, when to come again, and what an answer cost."""

import asyncio
from collections.abc import Callable

import pytest

from services.gateway.tenancy.uses import StoreFailure
from tests.contract.gateway.conftest import KEYED_CHAT, Keyed, running_mesh
from tests.fakes.triton import ErrorText, Hold, last, piece, scores, vectors

pytestmark = pytest.mark.asyncio(loop_scope="function")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def test_requests_beyond_the_minute_are_refused_until_it_ends(keyed: Keyed) -> None:
    headers = keyed.key(requests_per_minute=2)

    answers = [await keyed.chat(headers) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"2"}
    assert {answer.headers["x-ratelimit-reset-requests"] for answer in answers} == {"30.000s"}
    assert answers[2].headers["retry-after"] == "30"
    error = answers[2].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert error["message"] == "this request needs up to 1 requests, and 0 of the 2 a minute are left"


async def test_tokens_are_reserved_by_a_bound_and_settled_by_what_the_worker_counted(keyed: Keyed) -> None:
    headers = keyed.key(tokens_per_minute=1000)
    keyed.mesh.triton.script = (piece("a"), last(prompt_tokens=5, completion_tokens=3))

    first = await keyed.chat(headers, max_tokens=500)
    second = await keyed.chat(headers, max_tokens=500)

    assert [first.status_code, second.status_code] == [200, 200]  # the bound alone would allow one
    assert second.headers["x-ratelimit-remaining-tokens"] == str(1000 - 2 * 8)
    assert await keyed.used(headers) == (2, 10, 6)


async def test_a_request_that_may_need_more_tokens_than_are_left_is_refused_and_costs_nothing(keyed: Keyed) -> None:
    headers = keyed.key(tokens_per_minute=1000, requests_per_minute=10)

    async with asyncio.TaskGroup() as group:
        keyed.mesh.triton.script = (hold := Hold(), last())
        running = group.create_task(keyed.chat(headers, max_tokens=600))
        await keyed.mesh.triton.holding.wait()
        refused = await keyed.chat(headers, max_tokens=600)
        hold.release.set()
    again = await keyed.chat(headers, max_tokens=600)

    assert (running.result().status_code, refused.status_code, again.status_code) == (200, 429, 200)
    assert again.headers["x-ratelimit-remaining-requests"] == "8"
    assert await keyed.used(headers) == (2, 10, 6)


async def test_a_request_that_can_never_fit_is_not_to_be_sent_again(keyed: Keyed) -> None:
    answer = await keyed.chat(keyed.key(tokens_per_minute=100), max_tokens=600)

    assert answer.status_code == 429
    assert "retry-after" not in answer.headers


async def test_a_failure_before_the_first_token_costs_a_request_and_no_token(keyed: Keyed) -> None:
    headers = keyed.key(tokens_per_minute=1000)
    keyed.mesh.triton.script = (ErrorText("unknown model"),)

    answer = await keyed.chat(headers)

    assert (answer.status_code, answer.headers["x-ratelimit-remaining-tokens"]) == (503, "1000")
    assert await keyed.used(headers) == (1, 0, 0)


async def test_a_client_that_leaves_pays_for_what_was_written_for_it(keyed: Keyed) -> None:
    headers = keyed.key(tokens_per_minute=10_000)
    keyed.mesh.triton.script = (piece("a", 1, 2), piece("b", 3), Hold(), last())

    asking = keyed.mesh.http.stream(
        "POST", "/v1/chat/completions", json={**KEYED_CHAT, "stream": True}, headers=headers
    )
    async with asking as answer:
        lines = answer.aiter_lines()
        while '"b"' not in await anext(lines):
            pass
    await asyncio.wait_for(keyed.mesh.triton.cancelled.wait(), 5)
    await until(lambda: not keyed.tenancy.meter.num_running)

    requests, prompt_tokens, completion_tokens = await keyed.used(headers)
    assert (requests, completion_tokens) == (1, 3)
    assert prompt_tokens > 0


async def test_more_requests_at_once_than_allowed_are_refused(keyed: Keyed) -> None:
    headers = keyed.key(max_concurrent=1)
    async with asyncio.TaskGroup() as group:
        keyed.mesh.triton.script = (hold := Hold(), last())
        running = group.create_task(keyed.chat(headers))
        await keyed.mesh.triton.holding.wait()
        refused = await keyed.chat(headers)
        other = await keyed.mesh.http.get("/v1/models", headers=headers)
        hold.release.set()

    assert (running.result().status_code, refused.status_code, other.status_code) == (200, 429, 200)
    assert refused.headers["retry-after"] == "1"
    assert (await keyed.chat(headers)).status_code == 200


async def test_a_spent_month_is_told_apart_from_a_spent_minute(keyed: Keyed) -> None:
    headers = keyed.key(tokens_per_month=300)
    keyed.mesh.triton.script = (last(prompt_tokens=150, completion_tokens=100),)

    first, second = await keyed.chat(headers), await keyed.chat(headers)

    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["code"] == "insufficient_quota"
    assert "retry-after" not in second.headers


async def test_search_requests_pay_too_and_a_list_of_pairs_is_one_request(keyed: Keyed) -> None:
    headers = keyed.key(requests_per_minute=2, max_concurrent=1)
    keyed.mesh.triton.script = (scores(0.5),)
    score = {"model": "zhinao-rerank", "text_1": ["a", "b", "c"], "text_2": ["x", "y", "z"]}

    scored = await keyed.mesh.http.post("/v1/score", json=score, headers=headers)
    keyed.mesh.triton.script = (vectors([1.0]),)
    embedded = await keyed.mesh.http.post("/v1/embeddings", json={"input": "a"}, headers=headers)

    assert (scored.status_code, embedded.status_code) == (200, 200)
    assert embedded.headers["x-ratelimit-remaining-requests"] == "0"
    lines = (await keyed.mesh.http.get("/v1/usage", headers=headers)).json()["data"]
    assert [(line["model"], line["requests"], line["total_tokens"]) for line in lines] == [
        ("zhinao-embed", 1, 7),
        ("zhinao-rerank", 1, 33),
    ]


async def test_usage_is_told_for_the_days_asked_for(keyed: Keyed) -> None:
    headers = keyed.key()
    await keyed.chat(headers)

    old = await keyed.mesh.http.get("/v1/usage?start=2020-01-01&end=2020-12-31", headers=headers)
    bad = await keyed.mesh.http.get("/v1/usage?start=yesterday", headers=headers)

    assert old.json() == {"object": "list", "key": "a", "tenant": "t", "data": []}
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "start")


async def test_usage_that_cannot_be_looked_up_now_is_told_so(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreFailure("the server at 10.0.0.1 is gone")

    monkeypatch.setattr(keyed.store, "use", fail)

    answer = await keyed.mesh.http.get("/v1/usage", headers=keyed.key())

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert "10.0.0.1" not in answer.text


async def test_without_keys_there_is_no_usage_to_tell() -> None:
    async with running_mesh() as mesh:
        answer = await mesh.http.get("/v1/usage")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")


async def test_several_prompts_are_one_request_and_each_is_paid_for(keyed: Keyed) -> None:
    key = keyed.key(requests_per_minute=1)
    keyed.mesh.triton.script = [last("x", prompt_tokens=2, completion_tokens=1)]

    answer = await keyed.mesh.http.post("/v1/completions", json={"prompt": ["a", "b", "c"]}, headers=key)

    assert answer.status_code == 200
    assert await keyed.used(key) == (1, 6, 3)
