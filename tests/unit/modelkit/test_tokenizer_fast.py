"""Checks the tokenizer.json reader against transformers, and that text cannot become a control token."""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modelkit.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tests.fixtures.bpe import TRAINING_TEXT, byte_of_letter

PIECES = st.sampled_from(
    ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|", "  ", "\n", "\t", "2024年", "it's", "👩‍👩‍👧", "𠀀"]
)
TEXTS = st.lists(PIECES | st.text(max_size=8)).map("".join)
CONTROL = "<end>"


@pytest.fixture(scope="module")
def demo(demo_chat_model: Path) -> Tokenizer:
    return load_tokenizer(demo_chat_model)


@pytest.fixture(scope="module")
def demo_oracle(demo_chat_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(demo_chat_model)


def byte_level(model: models.Model) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def load(backend: Backend, folder: Path, config: dict[str, object] | None = None) -> Tokenizer:
    backend.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


def bytes_and(*tokens: str) -> dict[str, int]:
    return {text: token_id for token_id, text in enumerate([*byte_of_letter(), *tokens])}


@given(text=st.text(alphabet="abc <>|_中文年，。 \n\t019😀é'’", max_size=60))
def test_ids_and_text_equal_transformers(demo: Tokenizer, demo_oracle: PreTrainedTokenizerBase, text: str) -> None:
    ids = demo.encode(text)

    assert ids == demo_oracle(text).input_ids
    assert demo.decode(ids) == demo_oracle.decode(ids, clean_up_tokenization_spaces=False)


def test_a_long_text_equals_transformers(demo: Tokenizer, demo_oracle: PreTrainedTokenizerBase) -> None:
    assert demo.encode(TRAINING_TEXT) == demo_oracle(TRAINING_TEXT).input_ids


def test_other_threads_run_while_a_long_text_is_encoded(demo: Tokenizer) -> None:
    text = TRAINING_TEXT * (400_000 // len(TRAINING_TEXT))
    begun = time.perf_counter()
    longest, last = 0.0, begun
    with ThreadPoolExecutor(1) as pool:
        ids = pool.submit(demo.encode, text)
        while not ids.done():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    assert longest < (time.perf_counter() - begun) / 2


@given(text=TEXTS)
def test_text_never_yields_a_control_token(demo: Tokenizer, text: str) -> None:
    assert not set(demo.control_ids.values()) & set(demo.encode(text))


@pytest.mark.parametrize("control", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
def test_a_control_string_typed_by_the_user_is_read_as_any_text(
    demo: Tokenizer, demo_oracle: PreTrainedTokenizerBase, control: str
) -> None:
    ids = demo.encode(f"a{control}b")

    assert ids == demo_oracle(f"a{control}b", split_special_tokens=True).input_ids
    assert demo.decode(ids) == f"a{control}b"


def test_a_control_token_adds_nothing_to_the_text(demo: Tokenizer) -> None:
    assert demo.token_bytes(demo.control_ids["<|im_end|>"]) == b""


def test_the_vocabulary_ends_at_the_highest_id(demo: Tokenizer) -> None:
    assert demo.vocab_size == 49152
    with pytest.raises(ValueError, match=r"49152 .* 49152"):
        demo.token_bytes(49152)


def test_a_base_prompt_gets_the_prefix_that_transformers_gives_it(llama_folder: Path, demo: Tokenizer) -> None:
    tokenizer = load_tokenizer(llama_folder)
    oracle = AutoTokenizer.from_pretrained(llama_folder)

    assert [*tokenizer.prefix_ids, *tokenizer.encode("立春 rain 123")] == oracle("立春 rain 123").input_ids
    assert tokenizer.prefix_ids == (tokenizer.control_ids["<|begin_of_text|>"],)
    assert demo.prefix_ids == ()


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_post_processor_alone_decides_the_prefix_as_in_transformers(
    llama_folder: Path, tmp_path: Path, add_bos: bool
) -> None:
    shutil.copytree(llama_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": add_bos}))

    tokenizer = load_tokenizer(tmp_path)

    oracle = AutoTokenizer.from_pretrained(tmp_path)
    assert [*tokenizer.prefix_ids, *tokenizer.encode("rain")] == oracle("rain").input_ids


def test_merges_that_lead_to_a_control_token_are_undone(tmp_path: Path) -> None:
    merges = [("<", "e"), ("n", "d"), ("<e", "nd"), ("<end", ">")]
    backend = byte_level(models.BPE(bytes_and("<e", "nd", "<end", CONTROL), merges))
    backend.add_special_tokens([CONTROL])
    assert backend.encode("a<end>b").ids == [*backend.encode("a").ids, 259, *backend.encode("b").ids]

    tokenizer = load(backend, tmp_path)

    ids = tokenizer.encode("a<end>b<end")
    assert 259 not in ids
    assert tokenizer.decode(ids) == "a<end>b<end"
    assert ids[-1] == 258  # the merges below the control token still work


def test_a_control_token_that_is_a_whole_piece_is_spelled_out(tmp_path: Path) -> None:
    backend = byte_level(models.BPE(bytes_and(CONTROL), [], ignore_merges=True))
    backend.add_special_tokens([CONTROL])

    tokenizer = load(backend, tmp_path)

    assert 256 not in tokenizer.encode(CONTROL)
    assert tokenizer.decode(tokenizer.encode(CONTROL)) == CONTROL


def test_text_that_normalises_to_a_control_string_stays_text(tmp_path: Path) -> None:
    backend = byte_level(models.BPE(bytes_and(CONTROL), [], ignore_merges=True))
    backend.normalizer = normalizers.NFKC()
    backend.add_special_tokens([AddedToken(CONTROL, normalized=True)])

    tokenizer = load(backend, tmp_path)

    assert 256 not in tokenizer.encode("＜end＞")
    assert tokenizer.decode(tokenizer.encode("＜end＞")) == CONTROL


def test_a_byte_without_a_token_does_not_become_the_unknown_token(tmp_path: Path) -> None:
    letters = {letter: token_id for letter, token_id in bytes_and(CONTROL).items() if letter != "x"}
    backend = byte_level(models.BPE(letters, [], unk_token=CONTROL))
    backend.add_special_tokens([CONTROL])

    tokenizer = load(backend, tmp_path)

    assert tokenizer.encode("axb") == tokenizer.encode("ab")


def test_a_token_named_by_the_config_is_control_even_if_not_marked(tmp_path: Path) -> None:
    backend = byte_level(models.BPE(bytes_and(), []))
    backend.add_tokens([AddedToken(CONTROL, special=False, normalized=False), "<tool>"])

    tokenizer = load(backend, tmp_path, {"eos_token": CONTROL, "unk_token": "<absent>", "pad_token": None})

    assert tokenizer.control_ids == {CONTROL: 256}
    assert 256 not in tokenizer.encode(CONTROL)
    assert tokenizer.encode("<tool>") == [257]  # an ordinary added token is text
    assert tokenizer.token_bytes(257) == b"<tool>"


def test_a_single_character_named_as_padding_stays_text(tmp_path: Path) -> None:
    tokenizer = load(byte_level(models.BPE(bytes_and(), [])), tmp_path, {"pad_token": "!"})

    assert tokenizer.decode(tokenizer.encode("hi! a!!b")) == "hi! a!!b"


def test_truncation_and_padding_of_the_file_are_ignored(tmp_path: Path) -> None:
    backend = byte_level(models.BPE(bytes_and(), []))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)

    tokenizer = load(backend, tmp_path)

    assert len(tokenizer.encode("abcdef")) == 6
    assert len(tokenizer.encode("a")) == 1


def word_piece() -> Backend:
    return Backend(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))


def byte_fallback() -> Backend:
    backend = Backend(models.BPE({"a": 0}, []))
    backend.decoder = decoders.ByteFallback()
    return backend


@pytest.mark.parametrize(
    ("make", "reason"), [(word_piece, "model is WordPiece"), (byte_fallback, "decoder is ByteFallback")]
)
def test_a_vocabulary_that_is_not_byte_level_is_refused(
    tmp_path: Path, make: Callable[[], Backend], reason: str
) -> None:
    with pytest.raises(TokenizerError, match=reason):
        load(make(), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}'])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)

    with pytest.raises(TokenizerError, match="^" + str(tmp_path / "tokenizer.json") + ": ."):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", b"\xff"])
def test_a_broken_config_is_refused_by_name(llama_folder: Path, tmp_path: Path, content: str | bytes) -> None:
    shutil.copytree(llama_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=f"^{tmp_path}: neither"):
        load_tokenizer(tmp_path)


def test_several_rank_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.tiktoken").touch()
    (tmp_path / "b.tiktoken").touch()

    with pytest.raises(TokenizerError, match=r"2 rank files, expected 1: a\.tiktoken, b\.tiktoken"):
        load_tokenizer(tmp_path)
