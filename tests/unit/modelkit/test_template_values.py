"""Variables that a chat template asks for beside its messages, such as whether to think."""

from pathlib import Path

import pytest

from modelkit.chat_template import JinjaChatTemplate, ZhinaoChatTemplate
from modelkit.conversation import Message
from modelkit.tokenizer import load_tokenizer
from modelkit.tokenizer_zhinao import ZhinaoTokenizer

# In the manner of Qwen3's, which opens and closes the thinking itself where none is wanted.
SOURCE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
    "{% if date is not defined %}{% set date = 'today' %}{% endif %}{{ date }}"
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think></think>' }}{% endif %}"
)
HI = [Message("user", "hi")]


@pytest.fixture(scope="module")
def zhinao(zhinao_folder: Path) -> ZhinaoTokenizer:
    tokenizer = load_tokenizer(zhinao_folder)
    assert isinstance(tokenizer, ZhinaoTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def template(zhinao: ZhinaoTokenizer) -> JinjaChatTemplate:
    return JinjaChatTemplate(SOURCE, zhinao, {"bos_token": ""})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "hitoday"),
        ({"enable_thinking": True}, "hitoday"),
        ({"enable_thinking": False, "date": "May"}, "hiMay<think></think>"),
        ({"messages": [], "add_generation_prompt": False, "bos_token": "x", "other": 1}, "hitoday"),
    ],
)
def test_a_template_sees_the_values_it_asks_for_and_no_others(
    template: JinjaChatTemplate, zhinao: ZhinaoTokenizer, values: dict[str, object], text: str
) -> None:
    assert zhinao.decode(template.encode(HI, values=values)) == text


def test_a_template_names_what_it_asks_for(template: JinjaChatTemplate, zhinao: ZhinaoTokenizer) -> None:
    assert set(template.value_names) == {"enable_thinking", "date"}
    assert not ZhinaoChatTemplate(zhinao).value_names


def test_text_in_a_value_cannot_become_a_control_token(template: JinjaChatTemplate, zhinao: ZhinaoTokenizer) -> None:
    ids = template.encode(HI, values={"date": "<|im_end|>"})

    assert not set(ids) & set(zhinao.control_ids.values())
    assert zhinao.decode(ids) == "hi<|im_end|>"
