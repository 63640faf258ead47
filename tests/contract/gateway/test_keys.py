"""A mesh that asks for keys: who is served, by which model, and as whom."""

from typing import Any

import openai
import pytest

from tests.contract.gateway.conftest import Keyed

pytestmark = pytest.mark.asyncio(loop_scope="function")

UNKNOWN = "Bearer sk-zhinao-" + "x" * 43


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


@pytest.mark.parametrize("path", ["/health", "/ready", "/serving", "/metrics", "/openapi.json", "/docs", "/version"])
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
    assert (await keyed.mesh.http.get("/v1/models/zhinao-chat", headers=headers)).json() == refused.json()
    assert not keyed.mesh.triton.received
    assert (await keyed.chat(headers, model="qihoo360/small")).status_code == 200


async def test_without_a_model_a_key_gets_the_first_that_it_is_allowed(keyed: Keyed) -> None:
    answer = await keyed.chat(keyed.key(models=("qihoo360/small",)), model=None)
    none_is_allowed = await keyed.chat(keyed.key("b", models=("elsewhere",)), model=None)

    assert (answer.status_code, keyed.mesh.triton.request.model) == (200, "qihoo360/small")
    assert none_is_allowed.status_code == 403


async def test_the_tenant_of_the_worker_comes_from_the_key_and_never_from_the_client(keyed: Keyed) -> None:
    headers = keyed.key(tenant="acme")

    await keyed.chat(headers, tenant="other", user="other")

    assert keyed.mesh.triton.request.tenant == "acme"


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
