"""Fields that a client can get wrong, and the answer that names them."""

import pytest

from tests.contract.gateway.conftest import Mesh
from tests.contract.gateway.refusals import CHAT, USER, chat, check

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        ({}, "messages", "missing_required_parameter", ["required"]),
        ({"messages": None}, "messages", "invalid_type", ["list"]),
        ({"messages": []}, "messages", "invalid_value", ["at least 1", "got 0"]),
        ({"messages": "hi"}, "messages", "invalid_type", ["list"]),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type", ["must be an object"]),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter", []),
        (
            {"messages": [USER, {"role": "robot", "content": ""}]},
            "messages[1].role",
            "invalid_value",
            ["developer", '"robot"'],
        ),
        ({"messages": [{"role": "function", "content": ""}]}, "messages[0].role", "unsupported_parameter", []),
        ({"messages": [{"role": 3, "content": ""}]}, "messages[0].role", "invalid_type", ["string", "got 3"]),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter", []),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages[0].content",
            "invalid_type",
            ["text parts", "got null"],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "unsupported_parameter",
            ['"image_url"'],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "missing_required_parameter",
            [],
        ),
        (chat(model=7), "model", "invalid_type", ["got 7"]),
        (chat(stream="yes"), "stream", "invalid_type", []),
        (chat(stream_options={"include_usage": True}), "stream_options", "invalid_value", ["stream is true"]),
        (chat(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage", "invalid_type", []),
        (chat(max_tokens=-5), "max_tokens", "invalid_value", ["1", "got -5"]),
        (chat(max_tokens=0), "max_tokens", "invalid_value", ["1", "got 0"]),
        (chat(max_completion_tokens=2**32), "max_completion_tokens", "invalid_value", [str(2**32 - 1), str(2**32)]),
        (chat(max_tokens=10**300), "max_tokens", "invalid_value", ["…"]),
        (chat(max_tokens=1.5), "max_tokens", "invalid_type", ["integer"]),
        (chat(max_tokens=5, max_new_tokens=6), "max_new_tokens", "invalid_value", ["max_tokens 5", "max_new_tokens 6"]),
        (chat(temperature=2.5), "temperature", "invalid_value", ["2", "got 2.5"]),
        (chat(temperature=-0.1), "temperature", "invalid_value", ["0"]),
        (chat(temperature="0.5"), "temperature", "invalid_type", ["number"]),
        (chat(temperature=True), "temperature", "invalid_type", []),
        (chat(top_p=0), "top_p", "invalid_value", ["greater than 0"]),
        (chat(top_k=-2), "top_k", "invalid_value", ["-1", "got -2"]),
        (chat(seed=2**64), "seed", "invalid_value", []),
        (chat(seed=1.5), "seed", "invalid_type", []),
        (chat(stop=["a"] * 17), "stop", "invalid_value", ["16", "17"]),
        (chat(stop=[1]), "stop[0]", "invalid_type", []),
        (chat(top_logprobs=3), "top_logprobs", "invalid_value", ["3", "logprobs is true"]),
        (chat(logprobs=True, top_logprobs=21), "top_logprobs", "invalid_value", ["20", "got 21"]),
        (chat(repetition_penalty=0), "repetition_penalty", "invalid_value", ["greater than 0", "got 0"]),
        (chat(repetition_penalty=2.1), "repetition_penalty", "invalid_value", ["2", "got 2.1"]),
        (chat(presence_penalty=2.5), "presence_penalty", "invalid_value", ["2", "got 2.5"]),
        (chat(frequency_penalty=-3), "frequency_penalty", "invalid_value", ["-2", "got -3"]),
        (chat(min_p=1.5), "min_p", "invalid_value", ["1", "got 1.5"]),
        (chat(n=0), "n", "invalid_value", ["1", "got 0"]),
        (chat(n=129), "n", "invalid_value", ["128", "got 129"]),
        (chat(logit_bias={"five": 1}), "logit_bias", "invalid_value", ["token ids", "'five'"]),
        (chat(logit_bias={"-1": 1}), "logit_bias", "invalid_value", ["token ids"]),
        (chat(logit_bias={"5": 101}), "logit_bias[5]", "invalid_value", ["100", "got 101"]),
        (chat(logit_bias=[5]), "logit_bias", "invalid_type", ["dict"]),
        (chat(logit_bias=dict.fromkeys(map(str, range(1025)), 1)), "logit_bias", "invalid_value", ["1024", "1025"]),
        (chat(bad_token_ids=[-1]), "bad_token_ids[0]", "invalid_value", ["0", "got -1"]),
        (chat(allowed_token_ids=[1] * 1025), "allowed_token_ids", "invalid_value", ["1024", "1025"]),
        (chat(stop_token_ids=["a"]), "stop_token_ids[0]", "invalid_type", []),
        (chat(bad_words=["damn"]), "bad_words", "unsupported_parameter", []),
        (chat(min_tokens=-1), "min_tokens", "invalid_value", ["0", "got -1"]),
        (chat(ignore_eos=1), "ignore_eos", "invalid_type", []),
        (chat(prompt_logprobs=21), "prompt_logprobs", "invalid_value", ["20", "got 21"]),
        (chat(prompt_logprobs=1, stream=True), "prompt_logprobs", "invalid_value", ["stream is not true"]),
        (chat(priority="urgent"), "priority", "invalid_value", ["'bulk'", '"urgent"']),
        (chat(speculate="yes"), "speculate", "invalid_type", []),
        (chat(functions=[{}]), "functions", "unsupported_parameter", []),
        (chat(store=True), "store", "unsupported_parameter", []),
    ],
)
async def test_a_bad_chat_field_is_named(
    mesh: Mesh, body: dict[str, object], param: str, code: str, words: list[str]
) -> None:
    answer = await mesh.http.post(CHAT, json=body)

    message = check(answer, 400, param, code)
    assert message.startswith(param.split(".")[0].split("[")[0]) or param == "max_new_tokens"
    for word in words:
        assert word in message
    assert mesh.triton.received == []


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "invalid_type"),
        ({"prompt": [[]]}, "prompt[0]", "invalid_type"),
        ({"prompt": ["a", [1, -1]]}, "prompt[1]", "invalid_type"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt", "invalid_value"),
        ({"prompt": [1, "a"]}, "prompt", "invalid_type"),
        ({"prompt": [-1]}, "prompt", "invalid_type"),
        ({"prompt": [True]}, "prompt", "invalid_type"),
        ({"prompt": [2**32]}, "prompt", "invalid_type"),
        ({"prompt": "a", "logprobs": 6}, "logprobs", "invalid_value"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "invalid_type"),
        ({"prompt": "a", "echo": "yes"}, "echo", "invalid_type"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"prompt": "a", "best_of": 2}, "best_of", "unsupported_parameter"),
    ],
)
async def test_a_bad_completion_field_is_named(mesh: Mesh, body: dict[str, object], param: str, code: str) -> None:
    check(await mesh.http.post("/v1/completions", json=body), 400, param, code)
