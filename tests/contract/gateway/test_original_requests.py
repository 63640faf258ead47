"""The three requests that the original project's documentation prints."""

import openai
import pytest

from tests.contract.gateway.conftest import Mesh
from zhinao.chat.v1.chat_pb2 import ROLE_SYSTEM, ROLE_USER

pytestmark = pytest.mark.asyncio(loop_scope="session")

MESSAGES = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "你好"}]


async def test_flask_style_curl_without_model(mesh: Mesh) -> None:
    body = {
        "max_new_tokens": 200,
        "do_sample": True,
        "top_k": 0,
        "top_p": 0.8,
        "temperature": 1.0,
        "repetition_penalty": 1.0,
        "messages": MESSAGES,
    }

    answer = await mesh.http.post("/v1/chat/completions", json=body)

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"] == {"role": "assistant", "content": "Hello!", "refusal": None}
    request = mesh.triton.request
    assert request.model == "zhinao-chat"
    assert [message.role for message in request.chat.messages] == [ROLE_SYSTEM, ROLE_USER]
    assert (request.stop.max_tokens, request.sampling.do_sample, request.sampling.top_k) == (200, True, 0)
    assert request.sampling.HasField("top_k")


async def test_vllm_style_curl_with_an_empty_stop(mesh: Mesh) -> None:
    body = {
        "model": "zhinao-chat",
        "max_tokens": 200,
        "top_k": -1,
        "top_p": 0.8,
        "temperature": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "messages": MESSAGES,
        "stop": ["<eod>", "", "<|im_end|>", "<|im_start|>"],
    }

    answer = await mesh.http.post("/v1/chat/completions", json=body)

    assert answer.status_code == 200
    assert "x-ignored-params" not in answer.headers
    request = mesh.triton.request
    assert list(request.stop.texts) == ["<eod>", "<|im_end|>", "<|im_start|>"]
    assert request.sampling.HasField("top_k") and request.sampling.top_k == 0


async def test_openai_client_with_the_key_empty(mesh: Mesh) -> None:
    async with openai.AsyncOpenAI(api_key="EMPTY", base_url=f"{mesh.url}/v1") as client:
        answer = await client.chat.completions.create(
            model="zhinao-chat",
            messages=MESSAGES,
            stop=["<eod>", "<|im_end|>", "<|im_start|>"],
            presence_penalty=0.0,
            frequency_penalty=0.0,
        )

    assert answer.choices[0].message.content == "Hello!"
