"""The encoder's tokenizer against transformers', from both kinds of folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import BertTokenizer

from modelkit.config import CheckpointError
from modelkit.encoder_tokenizer import EncoderTokenizer
from tests.fixtures.tiny_bert import VOCABULARY, write_vocabulary

TEXTS = [
    "What is the COLOR of the sky?",
    "天空是什么颜色的？天空是蓝色的",
    "def f(x):\n\treturn x_1 == 'Çats' # naïve\u00a0dogs\u200b\x07",
    "mixed天空cats",
    "",
    "   ",
    "\U0001f600 emoji and 한국어 " + "a" * 101,
]


@pytest.fixture(params=["vocab.txt", "tokenizer.json"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_vocabulary(tmp_path)
    if request.param == "tokenizer.json":
        tokenizer = BertTokenizer.from_pretrained(tmp_path)
        tokenizer.backend_tokenizer.enable_truncation(8)  # as the demo model's file has it
        tokenizer.backend_tokenizer.enable_padding(length=8)
        tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "vocab.txt").unlink()
    return tmp_path


def test_ids_and_frames_are_those_of_transformers(folder: Path) -> None:
    write_vocabulary(reference_folder := folder / "reference")
    reference = BertTokenizer.from_pretrained(reference_folder)
    tokenizer = EncoderTokenizer.read(folder)
    assert list(tokenizer.encode(TEXTS)) == [reference(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    pair = reference(TEXTS[0], TEXTS[1])
    first, second = tokenizer.encode(TEXTS[:2])
    before = [*tokenizer.begin, *first, *tokenizer.between]
    assert pair["input_ids"] == [*before, *second, *tokenizer.end]
    assert pair["token_type_ids"] == [0] * len(before) + [tokenizer.second_type] * (len(second) + 1)
    assert tokenizer.vocab_size == len(VOCABULARY)


def test_texts_are_taken_as_their_ids_are_asked_for(folder: Path) -> None:
    asked = 0

    def texts() -> Iterator[str]:
        nonlocal asked
        for word in ("cat", "dog", "!", "sky") * 8:
            asked += 1
            yield f"{word} " * 10_000

    tokenizer = EncoderTokenizer.read(folder)
    found = tokenizer.encode(texts())
    first = next(found)
    assert asked <= 4
    ids = [first, *found]
    assert asked == 32
    assert ids == [next(tokenizer.encode([text])) for text in texts()]


def test_control_strings_in_text_stay_text(folder: Path) -> None:
    tokenizer = EncoderTokenizer.read(folder)
    (ids,) = tokenizer.encode(["[SEP]"])
    assert [VOCABULARY[token_id] for token_id in ids] == ["[", "sep", "]"]


@pytest.mark.parametrize(("settings", "word"), [({"do_lower_case": True}, "cat"), ({"do_lower_case": False}, "[UNK]")])
def test_settings_beside_the_vocabulary_decide_on_case(folder: Path, settings: dict[str, object], word: str) -> None:
    write_vocabulary(folder / "other", **settings)
    (folder / "tokenizer_config.json").write_bytes((folder / "other" / "tokenizer_config.json").read_bytes())
    (ids,) = EncoderTokenizer.read(folder).encode(["CAT"])
    assert [VOCABULARY[token_id] for token_id in ids] == [word]
    (ids,) = EncoderTokenizer.read(folder, lowercase=True).encode(["CAT"])
    assert [VOCABULARY[token_id] for token_id in ids] == ["cat"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", "[UNK]\n[CLS]\n", r"vocab.txt: the vocabulary of 2 tokens lacks \[SEP\]"),
        ("tokenizer.json", "{", "tokenizer.json: EOF"),
        ("README", "", "vocab.txt: .*No such file"),
    ],
)
def test_broken_folder_is_refused_by_file(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        EncoderTokenizer.read(tmp_path)
