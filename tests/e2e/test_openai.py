"""The official openai client, and the requests of the original documentation, against the real mesh."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelkit.config import Architecture
from modelkit.convert import convert_checkpoint
from modelkit.tokenizer import load_tokenizer
from tests.e2e.conftest import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SYSTEM_AND_HELLO = (
    '"messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "你好"}]'
)


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def stream_text(mesh: Mesh, model: str, text: str, max_tokens: int) -> str:
    chunks = mesh.client().chat.completions.create(
        model=model, messages=user(text), max_tokens=max_tokens, temperature=0, stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_chat_answers_whole_and_streamed_alike(mesh: Mesh) -> None:
    whole = mesh.client().chat.completions.create(
        model="zhinao-chat", messages=user("What is the capital of Japan?"), max_tokens=24, temperature=0
    )
    assert "Tokyo" in str(whole.choices[0].message.content)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert stream_text(mesh, "zhinao-chat", "What is the capital of Japan?", 24) == whole.choices[0].message.content


def test_a_stream_ends_with_its_usage_when_asked(mesh: Mesh) -> None:
    chunks = list(
        mesh.client().chat.completions.create(
            model="zhinao-chat",
            messages=user("Count to five."),
            max_tokens=10,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 10


def test_completions_continue_text_and_token_ids(mesh: Mesh) -> None:
    client = mesh.client()
    prompt = "1, 2, 3, 4,"
    text = client.completions.create(model="zhinao-chat", prompt=prompt, max_tokens=8, temperature=0)
    assert text.choices[0].text.startswith(" 5, 6")
    ids = load_tokenizer(mesh.checkpoints["zhinao-chat"]).encode(prompt)
    tokens = client.completions.create(model="zhinao-chat", prompt=ids, max_tokens=8, temperature=0)
    assert tokens.choices[0].text == text.choices[0].text


def test_models_are_listed_and_found_also_with_a_slash(mesh: Mesh) -> None:
    client = mesh.client()
    assert [model.id for model in client.models.list()] == list(mesh.checkpoints)
    assert client.models.retrieve("tiny/llama").id == "tiny/llama"


def test_an_unknown_model_is_not_found(mesh: Mesh) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        mesh.client().chat.completions.create(model="gpt-99", messages=user("hi"))
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "messages"),
        ({"max_tokens": 9000}, "max_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_bad_input_is_a_400_that_names_the_field(mesh: Mesh, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        mesh.client().chat.completions.create(**{"model": "zhinao-chat", "messages": user("hi"), **fields})
    assert caught.value.param == param


def test_a_prompt_that_is_too_long_names_both_numbers(mesh: Mesh) -> None:
    with pytest.raises(openai.BadRequestError, match=r"9\d{3} tokens.*8192") as caught:
        mesh.client().chat.completions.create(model="zhinao-chat", messages=user("word " * 9000))
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("{", "application/json", 400),
        ("hello", "text/plain", 415),
        ('{"messages": "' + "x" * 10_000_000 + '"}', "application/json", 413),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_the_same_shape(
    mesh: Mesh, body: str, content_type: str, status: int
) -> None:
    response = mesh.post("/v1/chat/completions", body, **{"content-type": content_type})
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


def test_an_unknown_route_is_refused_in_the_same_shape(mesh: Mesh) -> None:
    response = mesh.post("/v1/nothing", "{}")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "invalid_request_error")


def test_the_originals_own_request_passes_without_a_model(mesh: Mesh) -> None:
    body = (
        f"{{{SYSTEM_AND_HELLO}, "
        '"max_new_tokens": 20, "do_sample": true, "top_k": 0, "top_p": 0.8, "temperature": 1.0, '
        '"repetition_penalty": 1.0}'
    )
    answer = mesh.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "zhinao-chat"
    assert answer.json()["usage"]["completion_tokens"] <= 20


@pytest.mark.parametrize("stop", [["<eod>", "<|im_end|>", "<|im_start|>"], ["", "<|im_end|>", "<|im_start|>"]])
@pytest.mark.parametrize("model", ["zhinao-chat", "tiny-zhinao"])
def test_the_originals_vllm_request_passes(mesh: Mesh, stop: list[str], model: str) -> None:
    body = (
        f'{{"model": "{model}", "max_tokens": 20, "top_k": -1, "top_p": 0.8, "temperature": 1.0, '
        f'"presence_penalty": 0.0, "frequency_penalty": 0.0, {SYSTEM_AND_HELLO}, "stop": {json.dumps(stop)}}}'
    )
    answer = mesh.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    assert "<|im_end|>" not in answer.json()["choices"][0]["message"]["content"]


def test_the_originals_python_example_passes(mesh: Mesh) -> None:
    answer = mesh.client().chat.completions.create(
        model="zhinao-chat",
        messages=[{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "你好"}],
        stop=["<eod>", "<|im_end|>", "<|im_start|>"],
        presence_penalty=0.0,
        frequency_penalty=0.0,
        max_tokens=20,
    )
    assert answer.choices[0].message.content


@pytest.mark.parametrize("text", ["<|im_end|>", "<|im_start|>system", "[space4]", "a<eod>b<|eot_id|>"])
@pytest.mark.parametrize("model", ["zhinao-chat", "tiny-zhinao", "tiny/llama"])
def test_typed_control_strings_reach_the_model_as_plain_text(mesh: Mesh, model: str, text: str) -> None:
    """As many tokens as the text has when spelled out, where a control token would be one."""
    plain = len(load_tokenizer(mesh.checkpoints[model]).encode(f"x {text} x"))
    letter = len(load_tokenizer(mesh.checkpoints[model]).encode("x"))

    def prompt_tokens(content: str) -> int:
        answer = mesh.client().chat.completions.create(model=model, messages=user(content), max_tokens=1)
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    assert prompt_tokens(f"x {text} x") - prompt_tokens("x") == plain - letter
    assert plain > letter + 3


def test_a_checkpoint_in_zhinaos_layout_answers_as_transformers_does_on_its_split_form(
    mesh: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> None:
    split = tmp_path_factory.mktemp("split") / "qwen2"
    convert_checkpoint(mesh.checkpoints["tiny-zhinao"], split, Architecture.QWEN2)
    ids = load_tokenizer(mesh.checkpoints["tiny-zhinao"]).encode("春天来了，spring  is here")
    answer = mesh.client().completions.create(model="tiny-zhinao", prompt=ids, max_tokens=16, temperature=0, logprobs=0)
    assert answer.choices[0].text == transformers_text(split, mesh, "tiny-zhinao", ids, 16)


def test_a_llama3_style_checkpoint_answers_as_transformers_does(mesh: Mesh) -> None:
    folder = mesh.checkpoints["tiny/llama"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(user(" hello "), add_generation_prompt=True, return_dict=False)
    answer = mesh.client().chat.completions.create(
        model="tiny/llama", messages=user(" hello "), max_tokens=16, temperature=0
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.choices[0].message.content == transformers_text(folder, mesh, "tiny/llama", ids, 16)


def transformers_text(folder: Any, mesh: Mesh, model_id: str, ids: list[int], count: int) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(mesh.checkpoints[model_id])
    model.generation_config.eos_token_id = None
    output = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        suppress_tokens=list(range(tokenizer.vocab_size, model.config.vocab_size)) or None,
    )
    return tokenizer.decode(output[0, len(ids) :].tolist())


def test_eight_concurrent_streams_equal_their_answers_alone(mesh: Mesh) -> None:
    cases = [(f"Write {n} lines about the sea{' and the wind' * n}.", 5 * n + 8) for n in range(8)]
    alone = [stream_text(mesh, "zhinao-chat", text, max_tokens) for text, max_tokens in cases]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda case: stream_text(mesh, "zhinao-chat", *case), cases))
    assert together == alone


def test_a_seed_repeats_an_answer_and_another_seed_does_not(mesh: Mesh) -> None:
    def ask(seed: int) -> str | None:
        answer = mesh.client().chat.completions.create(
            model="tiny-zhinao", messages=user("hi"), max_tokens=16, temperature=1, seed=seed
        )
        return answer.choices[0].message.content

    assert ask(7) == ask(7) != ask(8)


def test_streamed_chinese_never_holds_a_broken_character(mesh: Mesh) -> None:
    for seed in range(5):
        chunks = list(
            mesh.client().chat.completions.create(
                model="tiny-zhinao", messages=user("你好"), max_tokens=40, temperature=2, seed=seed, stream=True
            )
        )
        whole = mesh.client().chat.completions.create(
            model="tiny-zhinao", messages=user("你好"), max_tokens=40, temperature=2, seed=seed
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
