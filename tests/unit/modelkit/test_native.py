"""The C++ step against the plain decoder, for every instruction set this machine has."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelkit.config import DecoderConfig
from modelkit.decoder import Decoder
from modelkit.native import build
from modelkit.native import library as native_library
from modelkit.native.library import Library, installed, open_library
from modelkit.native.model import NativeDecoder, NativeWeights, supports
from modelkit.native.packing import UNIT, Format, interleave_gate_up, pack, rotate, unpack
from modelkit.paged import PagedDecoder, PagedModel, Segment, Step
from tests.fixtures.tiny_decoder import tiny_config, tiny_decoder

NUM_BLOCKS, BLOCK_LEN = 24, 32
FORMATS = list(Format)
# geometry: odd sizes that fill neither panels nor blocks, GQA of 3, and a head for each key; int8 weights that share a
# scale over 64, 128, 192, 256 and 384 = 2 x 192 columns
SHAPES = {
    "gqa": {"num_heads": 6, "num_kv_heads": 2, "head_dim": 32, "hidden_size": 72, "vocab_size": 101},
    "wide": {"num_heads": 6, "num_kv_heads": 3, "head_dim": 32, "hidden_size": 250, "intermediate_size": 380},
    "mha": {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64, "hidden_size": 64, "intermediate_size": 100},
}


@pytest.fixture(params=build.available())
def library(request: pytest.FixtureRequest) -> Library:
    assert request.param in installed(), "set-up builds a library for every instruction set of this machine"
    return open_library(request.param)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def decoder(request: pytest.FixtureRequest) -> Decoder:
    config = replace(tiny_config(**request.param), qkv_bias=True, o_bias=request.param["num_heads"] == 2)
    return random_decoder(config)


def random_decoder(config: DecoderConfig) -> Decoder:
    decoder = Decoder(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return decoder


def native(decoder: Decoder, form: Format, library: Library) -> NativeDecoder:
    weights = NativeWeights.build(decoder.config, decoder.named_parameters(), form)
    return NativeDecoder(weights, library, num_blocks=NUM_BLOCKS, block_len=BLOCK_LEN)


def rounded(decoder: Decoder, form: Format) -> Decoder:
    """The decoder with the weights that the packed ones stand for."""
    copy = random_decoder(decoder.config)
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            stored = form
            if form >= Format.INT8:
                stored = {"head.weight": Format.INT8, "embed.weight": Format.FP16}.get(name, form)
            if parameter.ndim == 2:
                parameter.copy_(unpack(pack(parameter, stored)))
    return copy


def tokens(count: int, config: DecoderConfig, seed: int = 3) -> list[int]:
    return torch.randint(config.vocab_size, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def all_logits(model: PagedModel, ids: list[int], *, chunk: int, blocks: list[int]) -> Tensor:
    """Logits after every token, computed chunk by chunk."""
    parts = [
        model.forward(Step.build([Segment(ids[at : at + chunk], at, blocks, num_logits=len(ids[at : at + chunk]))]))
        for at in range(0, len(ids), chunk)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("form", [Format.FP32, Format.FP16, Format.BF16])
def test_floating_point_logits_are_those_of_the_plain_decoder(decoder: Decoder, form: Format, library: Library) -> None:
    ids = tokens(300, decoder.config)  # more than one span of 256
    blocks = [5, 2, 9, 11, 0, 1, 14, 3, 8, 7]
    oracle = PagedDecoder(rounded(decoder, form), num_blocks=NUM_BLOCKS, block_len=BLOCK_LEN)
    wanted = all_logits(oracle, ids, chunk=300, blocks=blocks)
    found = all_logits(native(decoder, form, library), ids, chunk=300, blocks=blocks)
    # beside half-precision weights keys and values have 11 bits, on a matrix unit 8
    assert (found - wanted).abs().max() < wanted.abs().max() * (1e-5 if form is Format.FP32 else 1e-2)


@pytest.mark.parametrize("form", [Format.INT8, Format.INT4])
def test_integer_logits_are_near_those_of_a_decoder_with_the_rounded_weights(
    decoder: Decoder, form: Format, library: Library
) -> None:
    ids = tokens(40, decoder.config)
    oracle = PagedDecoder(rounded(decoder, form), num_blocks=NUM_BLOCKS, block_len=BLOCK_LEN)
    wanted = all_logits(oracle, ids, chunk=40, blocks=[4, 6])
    found = all_logits(native(decoder, form, library), ids, chunk=40, blocks=[4, 6])
    error = (found - wanted).norm() / wanted.norm()
    assert 0 < error < 0.03  # activations are rounded to 8 bits on their way


@pytest.mark.parametrize("form", FORMATS)
def test_a_token_has_the_same_bits_in_chunks_and_beside_others(
    decoder: Decoder, form: Format, library: Library
) -> None:
    ids, others = tokens(290, decoder.config), tokens(70, decoder.config, seed=4)
    blocks = [5, 2, 9, 11, 0, 1, 14, 3, 8, 7]
    whole = all_logits(native(decoder, form, library), ids, chunk=290, blocks=blocks)
    assert torch.equal(all_logits(native(decoder, form, library), ids, chunk=37, blocks=blocks), whole)
    mixed = native(decoder, form, library)
    found = [all_logits(mixed, ids[:280], chunk=280, blocks=blocks)]
    for at in range(280, 290):  # decoded one by one, each time beside two prompts and a copy of itself
        part = slice(4 * (at - 280), 4 * (at - 280) + 4)
        step = [
            Segment(others[part], part.start, [12, 13], num_logits=0),
            Segment([ids[at]], at, blocks),
            Segment(others[: at - 270], 0, [20], num_logits=2),
        ]
        found.append(mixed.forward(Step.build(step))[:1])
    assert torch.equal(torch.cat(found), whole)


def test_instruction_sets_agree(decoder: Decoder) -> None:
    ids = tokens(50, decoder.config)
    results = [
        all_logits(native(decoder, Format.FP32, open_library(name)), ids, chunk=50, blocks=[4, 6])
        for name in installed()
    ]
    for result in results[1:]:
        assert (result - results[0]).abs().max() < results[0].abs().max() * 1e-5


def test_a_tied_model_uses_its_embedding_as_head(library: Library) -> None:
    decoder = random_decoder(replace(tiny_config(head_dim=32), tie_word_embeddings=True))
    ids = tokens(9, decoder.config)
    wanted = all_logits(PagedDecoder(decoder, num_blocks=2, block_len=BLOCK_LEN), ids, chunk=9, blocks=[1])
    found = all_logits(native(decoder, Format.FP32, library), ids, chunk=9, blocks=[1])
    assert (found - wanted).abs().max() < wanted.abs().max() * 1e-5


def test_a_copied_block_continues_as_the_first_does(library: Library) -> None:
    decoder = tiny_decoder(head_dim=32)
    ids = tokens(40, decoder.config)
    model = native(decoder, Format.INT8, library)
    all_logits(model, ids, chunk=40, blocks=[3, 4])
    model.copy_block(4, 9)
    first, second = model.forward(Step.build([Segment([7], 40, [3, 4]), Segment([7], 40, [3, 9])]))
    assert torch.equal(first, second)


def test_any_number_of_threads_computes_the_same_and_may_change_between_steps(library: Library) -> None:
    model = native(tiny_decoder(head_dim=32), Format.INT8, library)
    found: list[Tensor] = []
    for count in (1, 3, 1, torch.get_num_threads()):
        library.use_threads(count)
        found.append(model.forward(Step.build([Segment([1, 2, 3], 0, [0])])))

    assert all(torch.equal(each, found[0]) for each in found)


def test_steps_without_a_choice_return_no_rows(library: Library) -> None:
    model = native(tiny_decoder(head_dim=32), Format.INT4, library)
    assert model.forward(Step.build([Segment([1, 2], 0, [0], num_logits=0)])).shape == (0, 96)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", [(16, 32), (1, 1), (37, 100)])
def test_packing_keeps_every_weight_within_half_a_grid_step(form: Format, shape: tuple[int, int]) -> None:
    weight = F.pad(torch.randn(shape, generator=torch.Generator().manual_seed(1)), (0, -shape[1] % UNIT))
    step = {Format.FP32: 0.0, Format.FP16: 2**-10, Format.BF16: 2**-7, Format.INT8: 1 / 127, Format.INT4: 2 / 15}[form]
    error = unpack(pack(weight, form)) - weight
    if form is Format.INT8:
        error, weight = rotate(error), rotate(weight)  # where its grid is
    assert error.abs().max() <= 0.51 * step * weight.abs().max() + 1e-3 * (step > 0)


def test_rotating_twice_changes_nothing_and_both_sides_no_product() -> None:
    left, right = torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rotate(rotate(left)), left)
    torch.testing.assert_close(rotate(left) @ rotate(right).T, left @ right.T)


def test_rotating_spreads_a_single_column_over_64() -> None:
    matrix = torch.zeros(1, 128)
    matrix[0, 70] = 16
    assert rotate(matrix).abs().tolist() == [[0.0] * 64 + [2.0] * 64]


def test_four_bit_weights_on_a_grid_of_scale_and_minimum_are_kept() -> None:
    q = torch.randint(16, (16, 64), generator=torch.Generator().manual_seed(1)).float()
    q[:, ::32], q[:, 1::32] = 0, 15  # the ends of the grid are used, as in every block of a quantised file
    weight = 0.25 * q - 1.5
    assert torch.equal(unpack(pack(weight, Format.INT4)), weight)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_a_block_of_equal_weights_is_kept(form: Format, value: float) -> None:
    weight = torch.full((16, 32), value)
    assert torch.allclose(unpack(pack(weight, form)), weight, rtol=1e-3, atol=0)


def test_gate_and_up_take_turns_by_blocks_of_64() -> None:
    rows = torch.arange(2 * 80)[:, None].float() + 1
    taken = interleave_gate_up(rows)[:, 0].tolist()
    gate, up = list(range(1, 81)), list(range(81, 161))
    assert taken == gate[:64] + up[:64] + gate[64:] + [0] * 48 + up[64:] + [0] * 48


@pytest.mark.parametrize(
    ("changes", "block_len", "fits"),
    [
        ({"head_dim": 64}, 32, True),
        ({"head_dim": 128}, 256, True),
        ({"head_dim": 16}, 32, False),
        ({"head_dim": 64}, 48, False),
        ({"head_dim": 64}, 512, False),
        ({"head_dim": 64, "num_heads": 33, "num_kv_heads": 1}, 32, False),
        ({"head_dim": 32, "num_heads": 3, "num_kv_heads": 1}, 32, False),
    ],
)
def test_models_that_do_not_fill_vectors_are_left_to_torch(changes: dict[str, int], block_len: int, fits: bool) -> None:
    assert supports(tiny_config(**changes), block_len) is fits


def test_without_a_compiler_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    assert build.build() == []


def test_a_failing_compiler_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr(build, "_SOURCES", tmp_path)
    with pytest.raises(build.BuildError, match=r"false -std=.* failed"):
        build.build()


def test_where_the_kernel_refuses_the_best_library_the_next_one_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_first(name: str) -> str:
        if name == "first":
            raise OSError("not allowed")
        return f"opened {name}"

    monkeypatch.setattr(native_library, "installed", lambda: ["first", "second", "third"])
    monkeypatch.setattr(native_library, "open_library", refuse_first)
    assert native_library.best_library() == ("second", "opened second")
    assert "first is built and cannot run: not allowed" in caplog.text


def test_without_a_library_there_is_none_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "installed", lambda: [])
    assert native_library.best_library() is None
