"""Keys and their limits on the typed face: the same reasons, in gRPC's words."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from grpc_status import rpc_status

from tests.contract.gateway.conftest import Keyed
from zhinao.chat.v1.chat_pb2 import ChatPrompt, GenerateRequest, Message
from zhinao.chat.v1.chat_pb2_grpc import ChatServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="function")


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
