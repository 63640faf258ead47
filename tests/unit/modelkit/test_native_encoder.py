"""The C++ encoder against the plain one, for every instruction set this machine has."""

import logging
from pathlib import Path

import pytest
import torch

from modelkit.config import CheckpointError
from modelkit.encoder_checkpoint import EncoderCheckpoint, load_encoder
from modelkit.native import build
from modelkit.native.encoder import FORMATS, NativeEncoder
from modelkit.native.library import Library, installed, open_library
from modelkit.native.packing import Format
from modelkit.precision import Precision
from modelkit.row_encoder import TorchRowEncoder, load_row_encoder
from modelkit.sentence import Pooling
from tests.fixtures.tiny_bert import VOCABULARY, save_tiny_bert

# Sizes that fill neither panels nor tiles, and both sizes of heads.
SHAPES = {
    "heads of 32": {"num_attention_heads": 2, "hidden_size": 64, "intermediate_size": 100},
    "heads of 64": {"num_attention_heads": 2, "hidden_size": 128, "intermediate_size": 200},
}
LENGTHS = (1, 2, 15, 16, 17, 31, 33, 48, 140, 3)
# Of a vector's length, in networks whose random weights make every error grow.
MAX_ERRORS = {Format.FP32: 1e-5, Format.BF16: 0.04, Format.INT8: 0.15}
MAX_ERROR_OF_HALVES = 1e-4


@pytest.fixture(params=build.available())
def library(request: pytest.FixtureRequest) -> Library:
    assert request.param in installed(), "set-up builds a library for every instruction set of this machine"
    return open_library(request.param)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> EncoderCheckpoint:
    save_tiny_bert(tmp_path, max_position_embeddings=512, **request.param)
    return EncoderCheckpoint.open(tmp_path)


def rows(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(len(VOCABULARY), (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("form", FORMATS)
def test_vectors_are_those_of_the_plain_encoder(checkpoint: EncoderCheckpoint, library: Library, form: Format) -> None:
    mixed = rows(*LENGTHS)
    seconds = [length // 3 for length in LENGTHS]
    plain, fast = TorchRowEncoder(load_encoder(checkpoint)), NativeEncoder(checkpoint, library, form)
    is_sum_of_halves = form is Format.FP32 and library.wants_halves
    for pooling in Pooling:
        expected = plain.pool(mixed, pooling, seconds)
        errors = (fast.pool(mixed, pooling, seconds) - expected).norm(dim=1) / expected.norm(dim=1)
        assert errors.max() < (MAX_ERROR_OF_HALVES if is_sum_of_halves else MAX_ERRORS[form])


@pytest.mark.parametrize("form", FORMATS)
def test_vector_is_the_same_bits_in_any_batch(checkpoint: EncoderCheckpoint, library: Library, form: Format) -> None:
    encoder = NativeEncoder(checkpoint, library, form)
    mixed = rows(*LENGTHS)
    alone = torch.cat([encoder.pool([row], Pooling.MEAN) for row in mixed])
    assert torch.equal(encoder.pool(mixed, Pooling.MEAN), alone)
    assert torch.equal(encoder.pool(mixed[::-1], Pooling.MEAN), alone.flip(0))


def test_more_rows_than_are_computed_together_keep_their_order(checkpoint: EncoderCheckpoint) -> None:
    encoder = load_row_encoder(checkpoint, Precision.FP32)
    mixed = rows(*LENGTHS)
    assert torch.equal(encoder.pool(mixed * 12, Pooling.MAX), encoder.pool(mixed, Pooling.MAX).repeat(12, 1))


def test_model_that_suits_cpp_is_served_by_it(checkpoint: EncoderCheckpoint) -> None:
    encoder = load_row_encoder(checkpoint, Precision.AUTO)
    assert (encoder.precision, encoder.computed_by[:7]) == (Precision.FP32, "C++ for")


def test_model_that_does_not_suit_cpp_is_served_plainly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_tiny_bert(tmp_path, num_attention_heads=4)  # heads of 16
    with caplog.at_level(logging.WARNING):
        encoder = load_row_encoder(EncoderCheckpoint.open(tmp_path), Precision.BF16)
    assert (encoder.precision, encoder.computed_by) == (Precision.FP32, "torch")
    assert "heads of 16" in caplog.text


def test_format_that_is_not_offered_is_refused(checkpoint: EncoderCheckpoint) -> None:
    with pytest.raises(CheckpointError, match="dtype is int4, of an encoder it must be auto or one of"):
        load_row_encoder(checkpoint, Precision.INT4)
