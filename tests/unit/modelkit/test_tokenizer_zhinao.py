"""The Zhinao tokenizer: bytes, merges, spaces and control tokens."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkit.tokenizer import TokenizerError, load_tokenizer
from modelkit.tokenizer_zhinao import ZhinaoTokenizer
from tests.fixtures.bpe import TRAINING_TEXT, train_byte_level
from tests.fixtures.zhinao_vocab import PATTERN, write_rank_file

CONTROLS = ("<pad>", "<unk>", "<mask>", "<eod>", "<eop>", "<|im_start|>", "<|im_end|>")
PIECES = st.sampled_from(
    [*CONTROLS, "[space4]", "<br>", "[br]", "  ", " ", "\n", "\t", "2024年", "it's", "👩‍👩‍👧", "𠀀", "\ufffd"]
)
TEXTS = st.lists(PIECES | st.text(max_size=8)).map("".join)
BYTES = [bytes([byte]) for byte in range(256)]


@pytest.fixture(scope="module")
def zhinao(zhinao_folder: Path) -> ZhinaoTokenizer:
    tokenizer = load_tokenizer(zhinao_folder)
    assert isinstance(tokenizer, ZhinaoTokenizer)
    return tokenizer


def test_added_tokens_follow_the_published_ranks_in_the_published_order(tmp_path: Path) -> None:
    pairs = [bytes([first, second]) for first in range(256) for second in range(256)]
    triples = [pair + b"x" for pair in pairs] + [pair + b"y" for pair in pairs]
    write_rank_file(tmp_path, [*BYTES, *pairs, *triples][:158_323])

    tokenizer = load_tokenizer(tmp_path)

    assert tokenizer.control_ids == {
        "<pad>": 158323,
        "<unk>": 158324,
        "<mask>": 158325,
        "<eod>": 158326,
        "<eop>": 158327,
        "<|im_start|>": 158332,
        "<|im_end|>": 158333,
    }
    assert [tokenizer.token_bytes(i) for i in range(158328, 158332)] == [b"  ", b"   ", b"    ", b"        "]
    assert tokenizer.vocab_size == 158334


@pytest.mark.parametrize(
    ("run", "widths", "next_piece"),
    [
        (1, [], " x"),
        (2, [2], "x"),
        (3, [3], "x"),
        (4, [4], "x"),
        (5, [4], " x"),
        (6, [4, 2], "x"),
        (7, [4, 3], "x"),
        (8, [8], "x"),
        (9, [8], " x"),
        (10, [8, 2], "x"),
        (11, [8, 3], "x"),
        (29, [8, 8, 8, 4], " x"),
    ],
)
def test_a_run_of_spaces_is_cut_longest_first(
    zhinao: ZhinaoTokenizer, run: int, widths: list[int], next_piece: str
) -> None:
    first_space_id = zhinao.control_ids["<eop>"] + 1
    space_ids = {width: first_space_id + place for place, width in enumerate((2, 3, 4, 8))}
    expected = [*zhinao.encode("a"), *(space_ids[width] for width in widths), *zhinao.encode(next_piece)]

    assert zhinao.encode("a" + " " * run + "x") == expected
    assert zhinao.encode(" " * run + "x") == expected[1:]


def test_every_digit_is_a_piece_of_its_own(zhinao: ZhinaoTokenizer) -> None:
    pieces = [zhinao.token_bytes(token_id) for token_id in zhinao.encode("2024年")]

    assert pieces == [b"2", b"0", b"2", b"4", "年".encode()]


def test_text_without_space_runs_gets_the_ids_of_an_independent_bpe(zhinao: ZhinaoTokenizer) -> None:
    oracle = train_byte_level(2000, PATTERN)
    text = TRAINING_TEXT + "新的句子, it'S NEW\r\n\r\n\t 42 😀 naïve—ﬁn\n"

    assert zhinao.encode(text) == oracle.encode(text).ids


@pytest.mark.parametrize("text", [*CONTROLS, "[space2]", "[space4]", "[br]", "<br>"])
def test_a_token_spelled_out_by_the_user_is_plain_text(zhinao: ZhinaoTokenizer, text: str) -> None:
    ids = zhinao.encode(text)

    assert len(ids) > 1
    assert max(ids) < 2000
    assert zhinao.decode(ids) == text


@given(text=TEXTS)
def test_any_text_round_trips_and_never_yields_a_control_token(zhinao: ZhinaoTokenizer, text: str) -> None:
    ids = zhinao.encode(text)

    assert zhinao.decode(ids) == text
    assert not set(zhinao.control_ids.values()) & set(ids)


def test_control_tokens_add_nothing_to_the_text(zhinao: ZhinaoTokenizer) -> None:
    ids = [*zhinao.encode("一"), *zhinao.control_ids.values(), *zhinao.encode("二")]

    assert zhinao.decode(ids) == "一二"


def test_every_byte_has_a_token_and_half_a_character_becomes_a_replacement(zhinao: ZhinaoTokenizer) -> None:
    id_of = {zhinao.token_bytes(token_id): token_id for token_id in range(2000)}

    assert [zhinao.token_bytes(id_of[byte]) for byte in BYTES] == BYTES
    assert zhinao.decode([id_of[b"\xe4"], id_of[b"\xbd"], id_of[b"a"]]) == "\ufffda"


@pytest.mark.parametrize("token_id", [-1, 2011])
def test_an_id_outside_the_vocabulary_is_refused(zhinao: ZhinaoTokenizer, token_id: int) -> None:
    with pytest.raises(ValueError, match=f"{token_id} .* 2011"):
        zhinao.decode([token_id])


@pytest.mark.parametrize("character", ["\t", "\u3000", " ", "\n", "a", "中"])
def test_a_million_times_the_same_character_is_encoded(zhinao: ZhinaoTokenizer, character: str) -> None:
    text = character * 1_000_010 + "!"

    assert zhinao.decode(zhinao.encode(text)) == text


def test_a_rank_file_in_the_folder_itself_is_found(tmp_path: Path) -> None:
    write_rank_file(tmp_path, BYTES)
    (tmp_path / "vocab" / "360.tiktoken").rename(tmp_path / "own.tiktoken")

    assert load_tokenizer(tmp_path).vocab_size == 256 + 11


def _line(token: bytes, rank: int) -> str:
    return f"{base64.b64encode(token).decode()} {rank}\n"


GOOD = "".join(_line(byte, rank) for rank, byte in enumerate(BYTES))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "byte 0x00"),
        (GOOD + "!!!! 256\n", "line 257: expected base64"),
        (GOOD + "YWI=\n", "line 257: expected base64"),
        (GOOD + "YWI= x\n", "line 257: expected base64"),
        (GOOD + "YWI= 256 1\n", "line 257: expected base64"),
        (GOOD + "\n" + _line(b"ab", 256), "line 257: expected base64"),
        (GOOD + _line(b"ab", 255), "line 257: rank 255 is already on line 256"),
        (GOOD + _line(b"a", 256), "line 257: token b'a' is already on line 98"),
        (GOOD + _line(b"ab", 257), "line 257: rank 257 of 257 tokens, rank 256 is missing"),
        (GOOD + _line(b"ab", -1), "line 257: rank -1 of 257 tokens, rank 256 is missing"),
        (GOOD[: -len(_line(b"\xff", 255))], "byte 0xff is none of the 255 tokens"),
    ],
)
def test_a_broken_rank_file_is_refused_with_file_and_line(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "broken.tiktoken"
    path.write_text(content, "ascii")

    with pytest.raises(TokenizerError) as refusal:
        load_tokenizer(tmp_path)

    assert str(refusal.value).startswith(f"{path}: {reason}")
