"""Routes beside chat and text against the real mesh: tokens, several prompts, responses; and thinking."""

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from tests.e2e.conftest import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
PROMPTS = ["The capital of France is", "你好，世界", "One, two, three,"]


class Answer(BaseModel):
    """What the model is made to say."""

    capital: Literal["Paris", "Lyon"]


def post(mesh: Mesh, path: str, **body: object) -> Any:
    reply = mesh.post(path, json.dumps(body))
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("model", ["zhinao-chat", "tiny-zhinao", "tiny/llama"])
def test_tokens_of_a_text_are_those_of_its_prompt_and_turn_back_into_it(mesh: Mesh, model: str) -> None:
    text = "Naïve 你好 👋🏽\n\tend"
    told = post(mesh, "/tokenize", model=model, prompt=text, return_token_strs=True)
    plain = post(mesh, "/tokenize", model=model, prompt=text, add_special_tokens=False)
    usage = post(mesh, "/v1/completions", model=model, prompt=text, max_tokens=1)["usage"]

    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) == usage["prompt_tokens"]
    assert post(mesh, "/detokenize", model=model, tokens=plain["tokens"]) == {"prompt": text}
    assert told["tokens"][-plain["count"] :] == plain["tokens"]


@pytest.mark.parametrize("model", ["zhinao-chat", "tiny-zhinao", "tiny/llama"])
def test_tokens_of_a_conversation_are_those_of_its_prompt(mesh: Mesh, model: str) -> None:
    told = post(mesh, "/tokenize", model=model, messages=QUESTION)
    usage = post(mesh, "/v1/chat/completions", model=model, messages=QUESTION, max_tokens=1)["usage"]

    assert told["count"] == usage["prompt_tokens"]


def test_several_prompts_are_answered_as_each_alone(mesh: Mesh) -> None:
    ask: dict[str, Any] = {"model": "zhinao-chat", "max_tokens": 8, "temperature": 0.8, "seed": 5, "n": 2}
    alone = [post(mesh, "/v1/completions", prompt=prompt, **ask) for prompt in PROMPTS]
    together = post(mesh, "/v1/completions", prompt=PROMPTS, **ask)

    assert [choice["index"] for choice in together["choices"]] == list(range(6))
    assert [choice["text"] for choice in together["choices"]] == [
        choice["text"] for each in alone for choice in each["choices"]
    ]
    for count in ("prompt_tokens", "completion_tokens"):
        assert together["usage"][count] == sum(each["usage"][count] for each in alone)
    streamed = dict.fromkeys(range(6), "")
    for chunk in mesh.client().completions.create(prompt=PROMPTS, stream=True, **ask):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert list(streamed.values()) == [choice["text"] for choice in together["choices"]]


def test_a_response_says_what_a_chat_completion_does_whole_and_streamed(mesh: Mesh) -> None:
    client = mesh.client()
    chat = client.chat.completions.create(model="zhinao-chat", messages=QUESTION, max_tokens=24, temperature=0)
    ask: dict[str, Any] = {"model": "zhinao-chat", "input": QUESTION, "max_output_tokens": 24, "temperature": 0}
    whole = client.responses.create(**ask)
    with client.responses.stream(**ask) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response() if whole.status == "completed" else None

    assert whole.output_text == text == chat.choices[0].message.content
    assert final is None or final.output_text == text
    assert whole.usage is not None and chat.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )


def test_a_response_is_parsed(mesh: Mesh) -> None:
    response = mesh.client().responses.parse(
        model="zhinao-chat", input=QUESTION, text_format=Answer, max_output_tokens=200, temperature=0
    )

    assert response.output_parsed is not None
    assert response.output_parsed.capital in ("Paris", "Lyon")


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_comes_apart_from_the_answer(mesh: Mesh, stream: bool) -> None:
    """The demo model does not think by itself, so it is made to."""
    regex = "<think>\\nI know (this|that)\\.\\n</think>\\n\\n(Paris|Lyon)"
    body = {"model": "zhinao-chat", "messages": QUESTION, "structured_outputs": {"regex": regex}}
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    reply = mesh.post("/v1/chat/completions", json.dumps(body | streaming))

    assert reply.status_code == 200, reply.text
    if stream:
        chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        thought, text = (
            "".join(delta.get(name) or "" for delta in deltas) for name in ("reasoning_content", "content")
        )
        usage = chunks[-1]["usage"]
    else:
        message = reply.json()["choices"][0]["message"]
        thought, text, usage = message["reasoning_content"], message["content"], reply.json()["usage"]
    assert thought in ("I know this.", "I know that.")
    assert text in ("Paris", "Lyon")
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]
