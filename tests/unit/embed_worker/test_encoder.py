"""Texts to vectors, against sentence-transformers on a tiny model of random weights."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from meshkit.errors import MeshError, Reason
from modelkit.config import CheckpointError
from modelkit.encoder_tokenizer import EncoderTokenizer
from modelkit.precision import Precision
from services.embed_worker.encoder import TextEncoder, load_encoder
from services.embed_worker.request import EmbedRequest, Truncate
from tests.fixtures.tiny_bert import VOCABULARY, save_tiny_bert, write_modules

LIMIT = 20
TEXTS = ("what is the color", "天空是什么颜色的", "cats " * 3, "def f(x): 天空")
CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_bert(tmp_path)
    write_modules(tmp_path, pooling="mean", normalize=True, max_tokens=LIMIT, query="query: ", document="")
    return tmp_path


@pytest.fixture
def encoder(folder: Path) -> TextEncoder:
    return load_encoder(folder, Precision.FP32)


def ask(*inputs: str | tuple[int, ...], **changes: object) -> EmbedRequest:
    plain = {"is_query": False, "instruction": None, "dimensions": None, "truncate": Truncate.ERROR, "space": None}
    return EmbedRequest(inputs, **(plain | changes))  # type: ignore[arg-type]


def words(encoder: TextEncoder, request: EmbedRequest) -> list[str]:
    return [" ".join(VOCABULARY[token_id] for token_id in row.token_ids) for row in encoder.prepare(request)]


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, pooling: str, *, normalize: bool) -> None:
    save_tiny_bert(tmp_path)
    write_modules(tmp_path, pooling=pooling, normalize=normalize, max_tokens=LIMIT, query="query: ")
    encoder = load_encoder(tmp_path, Precision.FP32)
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    texts = [*TEXTS, "cat " * 50]
    for is_query, expected in ((False, reference.encode(texts)), (True, reference.encode_query(texts))):
        rows = encoder.prepare(ask(*texts, is_query=is_query, truncate=Truncate.END))
        found = encoder.encode([row.token_ids for row in rows])
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_vector_does_not_depend_on_its_batch(encoder: TextEncoder) -> None:
    rows = [row.token_ids for row in encoder.prepare(ask(*TEXTS))]
    alone = np.concatenate([encoder.encode([row]) for row in rows])
    np.testing.assert_array_equal(encoder.encode(rows), alone)
    np.testing.assert_array_equal(encoder.encode(rows[::-1]), alone[::-1])


def test_instruction_of_the_request_goes_before_the_models_own(encoder: TextEncoder) -> None:
    assert words(encoder, ask("cat", is_query=True)) == ["[CLS] q ##u ##e ##r ##y : cat [SEP]"]
    assert words(encoder, ask("cat")) == ["[CLS] cat [SEP]"]
    assert words(encoder, ask("cat", is_query=True, instruction="")) == ["[CLS] cat [SEP]"]
    assert words(encoder, ask("cat", instruction="what: ")) == ["[CLS] what : cat [SEP]"]


def test_token_ids_are_taken_as_they_are(encoder: TextEncoder) -> None:
    rows = encoder.prepare(ask((9, 8, 7), "cat", (5,), is_query=True))
    assert [row.token_ids for row in rows][::2] == [(9, 8, 7), (5,)]


@pytest.mark.parametrize(
    ("truncate", "changes", "kept"),
    [
        (Truncate.END, {}, "[CLS]" + " cat" * 10 + " dog" * 8 + " [SEP]"),
        (Truncate.START, {}, "[CLS]" + " cat" * 8 + " dog" * 10 + " [SEP]"),
        (Truncate.START, {"instruction": "the : "}, "[CLS] the :" + " cat" * 6 + " dog" * 10 + " [SEP]"),
    ],
)
def test_long_text_is_cut_inside_of_its_frame(
    encoder: TextEncoder, truncate: Truncate, changes: dict[str, object], kept: str
) -> None:
    request = ask("cat " * 10 + "dog " * 10, truncate=truncate, **changes)
    assert words(encoder, request) == [kept]
    assert encoder.prepare(request)[0].truncated_tokens == 2 + 2 * len(changes)


def test_an_instruction_whose_last_word_goes_on_in_the_text_stays_but_for_that_word(encoder: TextEncoder) -> None:
    request = ask("y" + " dog" * 30, instruction="the sk", truncate=Truncate.START)
    assert words(encoder, request) == ["[CLS] the" + " dog" * 17 + " [SEP]"]


def test_an_instruction_that_leaves_no_room_is_refused_before_the_inputs_are_read(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    encode = EncoderTokenizer.encode

    def counted(self: EncoderTokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
        return encode(self, (read.append(text) or text for text in texts))

    monkeypatch.setattr(EncoderTokenizer, "encode", counted)
    instruction = "cat " * 1_000
    with pytest.raises(MeshError, match="instruction leaves no room: 1002 tokens with its frame, the limit is 20"):
        encoder.prepare(ask(*TEXTS, instruction=instruction))
    assert read == [instruction]


@pytest.mark.parametrize(
    ("inputs", "instruction", "param", "message"),
    [
        (("cat", " " * 262_145), None, "input[1]", "input[1] is 262145 characters, the limit is 262144"),
        (("cat",), " " * 4_097, "instruction", "instruction is 4097 characters, the limit is 4096"),
    ],
)
def test_a_text_of_too_many_characters_is_refused_however_few_tokens_it_is(
    encoder: TextEncoder, inputs: tuple[str, ...], instruction: str | None, param: str, message: str
) -> None:
    with pytest.raises(MeshError) as caught:
        encoder.prepare(ask(*inputs, instruction=instruction, truncate=Truncate.END))
    assert (caught.value.reason, caught.value.param, caught.value.message) == (Reason.PROMPT_TOO_LONG, param, message)
    fewer = [text[:262_144] for text in inputs]
    assert len(encoder.prepare(ask(*fewer, instruction=(instruction or "")[:4_096]))) == len(inputs)


def test_a_folder_whose_instruction_leaves_no_room_is_refused(folder: Path) -> None:
    write_modules(folder, pooling="mean", normalize=True, max_tokens=LIMIT, query="cat " * 18)
    with pytest.raises(CheckpointError, match="instruction leaves no room: 20 tokens with its frame, the limit is 20"):
        load_encoder(folder, Precision.FP32)


def test_long_token_ids_keep_their_frame_if_they_have_one(encoder: TextEncoder) -> None:
    framed, bare = (CLS, *range(5, 35), SEP), tuple(range(5, 35))
    rows = encoder.prepare(ask(framed, bare, truncate=Truncate.END))
    assert [row.token_ids for row in rows] == [(CLS, *range(5, 23), SEP), tuple(range(5, 25))]
    rows = encoder.prepare(ask(framed, bare, truncate=Truncate.START))
    assert [row.token_ids for row in rows] == [(CLS, *range(17, 35), SEP), tuple(range(15, 35))]


def test_dimensions_cut_and_give_unit_length_back(encoder: TextEncoder) -> None:
    (whole,) = encoder.encode([encoder.prepare(ask("cat", dimensions=16))[0].token_ids])
    cut = encoder.cut(whole, 16)
    np.testing.assert_allclose(cut, whole[:16] / np.linalg.norm(whole[:16]), rtol=1e-6)
    assert cut.dtype == np.float32


@pytest.mark.parametrize(
    ("request_", "reason", "message"),
    [
        (ask("cat", ""), Reason.INVALID_REQUEST, r"input\[1\] is empty"),
        (ask(()), Reason.INVALID_REQUEST, r"input\[0\] is empty"),
        (ask((3, len(VOCABULARY))), Reason.INVALID_REQUEST, f"token id {len(VOCABULARY)}, must be below"),
        (ask((-1,)), Reason.INVALID_REQUEST, "token id -1, must be below"),
        (ask("cat", dimensions=65), Reason.INVALID_REQUEST, "dimensions is 65, must be 1 to 64"),
        (ask("cat", dimensions=0), Reason.INVALID_REQUEST, "dimensions is 0, must be 1 to 64"),
        (ask("cat " * 19), Reason.PROMPT_TOO_LONG, r"input\[0\] is 21 tokens, the limit is 20"),
        (ask((5,), instruction="what: "), Reason.INVALID_REQUEST, "instruction goes in front of text"),
        (
            ask("cat " * 9, instruction="cat " * 19, truncate=Truncate.START),
            Reason.INVALID_REQUEST,
            "instruction leaves no room",
        ),
        (ask("cat", space="0123456789abcdef"), Reason.SPACE_MISMATCH, "space is '0123456789abcdef', this model's"),
    ],
)
def test_bad_request_says_what_is_wrong(
    encoder: TextEncoder, request_: EmbedRequest, reason: Reason, message: str
) -> None:
    with pytest.raises(MeshError, match=message) as caught:
        encoder.prepare(request_)
    assert caught.value.reason is reason


def test_space_names_what_vectors_may_be_compared_with(folder: Path, encoder: TextEncoder) -> None:
    spaces = {encoder.space(64), encoder.space(32), load_encoder(folder, Precision.AUTO).space(64)}
    assert len(spaces) == 2
    assert encoder.prepare(ask("cat", space=encoder.space(32), dimensions=32))
    write_modules(folder, pooling="cls", normalize=True, max_tokens=LIMIT)
    spaces.add(load_encoder(folder, Precision.FP32).space(64))
    save_tiny_bert(folder, num_hidden_layers=2)
    spaces.add(load_encoder(folder, Precision.FP32).space(64))
    assert len(spaces) == 4


def test_tokenizer_that_knows_more_than_the_network_is_refused(folder: Path) -> None:
    save_tiny_bert(folder, vocab_size=len(VOCABULARY) - 1)
    with pytest.raises(CheckpointError, match=r"the tokenizer has \d+ ids, the network knows \d+"):
        load_encoder(folder, Precision.FP32)
