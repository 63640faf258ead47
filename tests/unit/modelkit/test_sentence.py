"""What a folder says about turning a text into a vector."""

import json
from pathlib import Path

import pytest

from modelkit.config import CheckpointError
from modelkit.sentence import Pooling, SentenceConfig, read_sentence_config
from tests.fixtures.tiny_bert import save_tiny_bert, write_modules


def test_plain_folder_means_cls_and_unit_length(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path)
    assert read_sentence_config(tmp_path) == SentenceConfig(tmp_path, Pooling.CLS, normalize=True)


def test_plain_folder_with_the_chinese_vocabulary_has_the_cards_instruction(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 21128}')
    sentence = read_sentence_config(tmp_path)
    assert (sentence.query_instruction, sentence.passage_instruction) == ("为这个句子生成表示以用于检索相关文章：", "")


def test_folder_of_sentence_transformers_is_read_as_it_says(tmp_path: Path) -> None:
    write_modules(tmp_path, pooling="mean", normalize=False, max_tokens=7, query="q: ", passage="p: ", corpus="c: ")
    assert read_sentence_config(tmp_path) == SentenceConfig(
        tmp_path, Pooling.MEAN, normalize=False, max_tokens=7, query_instruction="q: ", passage_instruction="p: "
    )


def test_default_prompt_stands_in(tmp_path: Path) -> None:
    write_modules(tmp_path, pooling="max", normalize=True, max_tokens=7, query="q: ", any="a: ")
    file = tmp_path / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"default_prompt_name": "any"}))
    sentence = read_sentence_config(tmp_path)
    assert (sentence.pooling, sentence.query_instruction, sentence.passage_instruction) == (Pooling.MAX, "q: ", "a: ")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", [{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "1"}], "'Dense'.*must be"),
        ("modules.json", [{"type": "x.Transformer"}], "modules.json is no list of modules"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pooling is .*lasttoken.*must be one of"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pooling is .*cls.*mean.*must be one of"),
        ("1_Pooling/config.json", {"pooling_mode_mean_sqrt_len_tokens": True}, "pooling is .*sqrt.*must be one of"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "of all tokens"),
        ("config_sentence_transformers.json", {"prompts": {"query": 1}}, "prompts is .*must be texts by name"),
    ],
)
def test_what_we_do_not_do_is_refused(tmp_path: Path, file: str, content: object, message: str) -> None:
    write_modules(tmp_path, pooling="mean", normalize=True, max_tokens=7)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        read_sentence_config(tmp_path)
