"""A mesh that asks for keys: who is served, what is left of a limit, and what an answer cost, on both faces."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import openai
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from grpc_status import rpc_status

from services.gateway.tenancy.keys import Limits
from services.gateway.tenancy.store import Store
from services.gateway.tenancy.tenancy import Tenancy
from services.gateway.tenancy.windows import Windows
from tests.contract.gateway.conftest import Mesh, running_mesh
from tests.fakes.triton import ErrorText, Hold, last, piece, scores, vectors
from zhinao.chat.v1.chat_pb2 import ChatPrompt, GenerateRequest, Message
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="function")

CHAT = {"model": "zhinao-chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
UNKNOWN = "Bearer sk-zhinao-" + "x" * 43
HALF_PAST_S = 1_000_000 * 60 + 30  # the clock of every test: thirty seconds of the minute are left


class Keyed:
    """A mesh with keys; `key` makes one and returns the headers of a client that has it."""

    def __init__(self, mesh: Mesh, store: Store, tenancy: Tenancy) -> None:
        self.mesh, self.store, self.tenancy = mesh, store, tenancy

    def key(self, name: str = "a", tenant: str = "t", **limits: Any) -> dict[str, str]:
        _, secret = self.store.create_key(name, tenant, Limits(**limits))
        return {"authorization": f"Bearer {secret}"}

    async def chat(self, headers: dict[str, str], **changes: Any) -> Any:
        return await self.mesh.http.post("/v1/chat/completions", json={**CHAT, **changes}, headers=headers)

    async def used(self, headers: dict[str, str]) -> tuple[int, int, int]:
        answer = (await self.mesh.http.get("/v1/usage", headers=headers)).json()
        (line,) = answer["data"]
        assert line["day"] == datetime.now(UTC).date().isoformat()
        return line["requests"], line["prompt_tokens"], line["completion_tokens"]


@pytest_asyncio.fixture
async def keyed(tmp_path: Any) -> AsyncIterator[Keyed]:
    store = Store.open(f"sqlite:///{tmp_path}/keys.sqlite3")
    tenancy = Tenancy(store, Windows(None, clock=lambda: HALF_PAST_S))
    async with running_mesh(tenancy) as mesh:
        yield Keyed(mesh, store, tenancy)
    await tenancy.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


@pytest.mark.parametrize("authorization", [None, "Bearer", "Basic eDp5", "Bearer EMPTY", UNKNOWN])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/nothing"])
async def test_without_a_key_that_works_every_route_of_clients_answers_401(
    keyed: Keyed, path: str, authorization: str | None
) -> None:
    headers = {"authorization": authorization} if authorization else {}

    answer = await keyed.mesh.http.get(path, headers=headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/serving", "/metrics", "/openapi.json", "/docs"])
async def test_probes_and_operators_need_no_key(keyed: Keyed, path: str) -> None:
    assert (await keyed.mesh.http.get(path)).status_code == 200


async def test_a_revoked_key_is_refused_once_it_is_read_again(keyed: Keyed) -> None:
    headers = keyed.key()
    keyed.store.revoke_key("a")

    assert (await keyed.chat(headers)).status_code == 401


async def test_a_key_sees_and_asks_only_the_models_it_is_allowed(keyed: Keyed) -> None:
    headers = keyed.key(models=("qihoo360/small",))

    listed = (await keyed.mesh.http.get("/v1/models", headers=headers)).json()
    refused = await keyed.chat(headers)

    assert [model["id"] for model in listed["data"]] == ["qihoo360/small"]
    assert refused.status_code == 403
    assert refused.json()["error"] == {
        "message": "this key may not use the model 'zhinao-chat'",
        "type": "permission_error",
        "param": "model",
        "code": "model_not_allowed",
    }
    assert not keyed.mesh.triton.received
    assert (await keyed.chat(headers, model="qihoo360/small")).status_code == 200


async def test_the_tenant_of_the_worker_comes_from_the_key_and_never_from_the_client(keyed: Keyed) -> None:
    headers = keyed.key(tenant="acme")

    await keyed.chat(headers, tenant="other", user="other")

    assert keyed.mesh.triton.request.tenant == "acme"


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

    asking = keyed.mesh.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers)
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


async def test_openai_clients_name_each_refusal_as_their_own(keyed: Keyed) -> None:
    secret = keyed.key(requests_per_minute=1, models=("zhinao-chat",))["authorization"].removeprefix("Bearer ")
    good = keyed.mesh.openai.with_options(api_key=secret)

    async def ask(client: openai.AsyncOpenAI, model: str = "zhinao-chat") -> Any:
        return await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])

    with pytest.raises(openai.AuthenticationError):
        await ask(keyed.mesh.openai)
    with pytest.raises(openai.PermissionDeniedError):
        await ask(good, "qihoo360/small")
    await ask(good)
    with pytest.raises(openai.RateLimitError):
        await ask(good)


def generate(keyed: Keyed, headers: dict[str, str]) -> Any:
    request = GenerateRequest(chat=ChatPrompt(messages=[Message(role=2, content="hi")]), model="zhinao-chat")
    return ChatServiceStub(keyed.mesh.channel).Generate(request, metadata=tuple(headers.items()))


@pytest.mark.parametrize(
    ("limits", "code", "reason"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
        ({"models": ("qihoo360/small",)}, grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN"),
        ({"requests_per_minute": 0}, grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_LIMIT"),
    ],
)
async def test_the_typed_face_refuses_with_the_same_reasons(
    keyed: Keyed, limits: dict[str, Any] | None, code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in generate(keyed, {} if limits is None else keyed.key(**limits)):
            pass

    assert caught.value.code() is code
    status = rpc_status.from_call(caught.value)  # pyright: ignore[reportArgumentType]
    info = ErrorInfo()
    assert status is not None and status.details[0].Unpack(info)
    assert info.reason == reason


async def test_the_typed_face_says_which_limit_is_reached_when_to_come_again_and_what_is_left(keyed: Keyed) -> None:
    key = keyed.key(requests_per_minute=1, tokens_per_minute=5000)

    served = generate(keyed, key)
    async for _ in served:
        pass
    left = dict(await served.trailing_metadata())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in generate(keyed, key):
            pass

    assert (left["x-ratelimit-limit-requests"], left["x-ratelimit-remaining-requests"]) == ("1", "0")
    assert (left["x-ratelimit-remaining-tokens"], left["x-ratelimit-reset-tokens"]) == (str(5000 - 8), "30.000s")
    assert left["x-request-id"] and "worker;dur=" in left["server-timing"]
    status = rpc_status.from_call(caught.value)  # pyright: ignore[reportArgumentType]
    assert status is not None
    retry, quota = RetryInfo(), QuotaFailure()
    assert status.details[1].Unpack(retry) and status.details[2].Unpack(quota)
    assert retry.retry_delay.ToSeconds() == 30
    assert quota.violations[0].subject == "rate_limit_exceeded"
    assert "1 requests" in quota.violations[0].description
    refused = dict(caught.value.trailing_metadata())
    assert refused["x-ratelimit-remaining-requests"] == "0"
    assert refused["x-request-id"] != left["x-request-id"]


async def test_the_typed_face_counts_what_it_served(keyed: Keyed) -> None:
    headers = keyed.key(tenant="acme")

    async for _ in generate(keyed, headers):
        pass

    assert keyed.mesh.triton.request.tenant == "acme"
    assert await keyed.used(headers) == (1, 5, 3)


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
