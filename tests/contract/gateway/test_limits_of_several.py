"""What several questions in one request cost a key: all of them are reserved before one is asked."""

import asyncio
from typing import Any

import pytest

from meshkit.errors import MeshError, Reason
from meshkit.wire import encode_error
from tests.contract.gateway.conftest import Keyed
from tests.contract.gateway.test_limits import until
from tests.contract.gateway.test_several_prompts import by_prompt
from tests.fakes.triton import ErrorText, Hold, Step, last, scores

pytestmark = pytest.mark.asyncio(loop_scope="function")

TEXT = "x" * 1000
PROMPTS = {"prompt": [TEXT] * 8, "max_tokens": 10}
PAIRS = {"text_1": [f"{number}{TEXT}" for number in range(8)], "text_2": [TEXT] * 8}
ASKED = [("/v1/completions", PROMPTS, last("x")), ("/v1/score", PAIRS, scores(0.5))]


async def post(keyed: Keyed, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    return await keyed.mesh.http.post(path, json=body, headers=headers)


async def tokens(keyed: Keyed, headers: dict[str, str]) -> int:
    lines = (await keyed.mesh.http.get("/v1/usage", headers=headers)).json()["data"]
    return sum(line["total_tokens"] for line in lines)


@pytest.mark.parametrize(("path", "body", "answer"), ASKED)
async def test_beyond_the_requests_of_the_minute_none_is_asked_and_none_paid_for(
    keyed: Keyed, path: str, body: dict[str, Any], answer: Step
) -> None:
    headers = keyed.key(requests_per_minute=1)
    await keyed.chat(headers)
    paid, num_asked = await tokens(keyed, headers), len(keyed.mesh.triton.received)
    keyed.mesh.triton.script = [Hold(), answer]

    refused = await post(keyed, path, body, headers)

    assert refused.status_code == 429
    assert (await tokens(keyed, headers), len(keyed.mesh.triton.received)) == (paid, num_asked)


@pytest.mark.parametrize(("path", "body", "answer"), ASKED)
async def test_beyond_the_tokens_of_the_minute_none_is_asked_and_none_paid_for(
    keyed: Keyed, path: str, body: dict[str, Any], answer: Step
) -> None:
    headers = keyed.key(tokens_per_minute=5000, requests_per_minute=9)
    keyed.mesh.triton.script = [Hold(), answer]

    refused = await post(keyed, path, body, headers)

    assert (refused.status_code, refused.headers["x-ratelimit-remaining-tokens"]) == (429, "0")
    assert (await tokens(keyed, headers), len(keyed.mesh.triton.received)) == (0, 0)
    keyed.mesh.triton.script = [last("x")]
    again = await keyed.chat(headers)
    assert again.headers["x-ratelimit-remaining-requests"] == "8"


async def test_what_one_prompt_failed_is_not_paid_for_by_the_others(keyed: Keyed) -> None:
    headers = keyed.key(tokens_per_minute=10_000)
    too_long = encode_error(MeshError(Reason.PROMPT_TOO_LONG, "too long", param="prompt"))
    keyed.mesh.triton.script = [by_prompt(good=Hold(), bad=ErrorText(too_long))]

    failed = await post(keyed, "/v1/completions", {**PROMPTS, "prompt": ["good", "good", "bad"]}, headers)

    assert (failed.status_code, failed.headers["x-ratelimit-remaining-tokens"]) == (400, "10000")
    assert await keyed.used(headers) == (1, 0, 0)


@pytest.mark.parametrize(("path", "body", "answer"), ASKED)
async def test_who_leaves_pays_for_all_that_were_asked(
    keyed: Keyed, path: str, body: dict[str, Any], answer: Step
) -> None:
    headers = keyed.key()
    keyed.mesh.triton.script = [Hold(), answer]

    asking = asyncio.create_task(post(keyed, path, body, headers))
    await until(lambda: len(keyed.mesh.triton.received) == 8)
    asking.cancel()
    await until(lambda: not keyed.tenancy.meter.num_running)

    assert await tokens(keyed, headers) >= 8 * len(TEXT)
