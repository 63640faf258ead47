"""Checkpoint folders: every layout of files loads alike, and what is not whole is refused by name."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelkit.checkpoint import load_decoder
from modelkit.config import CheckpointError
from tests.fixtures.tiny_checkpoint import save_tiny

NORM, GATE = "model.norm.weight", "model.layers.1.mlp.gate_proj.weight"
WEIGHTS = "model.safetensors"


def write_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    write_tensors(folder, tensors)


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def as_shards(folder: Path, *, suffix: str, save: Callable[[dict[str, Tensor], Path], object]) -> list[Path]:
    """Rewrite a single safetensors file as two shards with an index, the way large checkpoints are published."""
    stem = {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = [folder / f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    weight_map: dict[str, str] = {}
    for shard, part in zip(shards, (names[::2], names[1::2]), strict=True):
        save({name: tensors[name] for name in part}, shard)
        weight_map |= dict.fromkeys(part, shard.name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return shards


def as_single_bin(folder: Path) -> Path:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def as_legacy_bin(folder: Path) -> None:
    file = as_single_bin(folder)
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)


REWRITES: dict[str, Callable[[Path], object]] = {
    "safetensors shards": lambda folder: as_shards(folder, suffix="safetensors", save=save_file),
    "bin shards": lambda folder: as_shards(folder, suffix="bin", save=torch.save),
    "one bin": as_single_bin,
    "one bin from before torch 1.6": as_legacy_bin,
}


@pytest.mark.parametrize("rewrite", REWRITES.values(), ids=REWRITES.keys())
def test_weights_are_the_same_from_every_kind_of_file(tmp_path: Path, rewrite: Callable[[Path], object]) -> None:
    _, folder = save_tiny(tmp_path, "qwen2")
    expected = load_decoder(folder).state_dict()
    rewrite(folder)
    loaded = load_decoder(folder).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_half_precision_files_load_as_fp32(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    change_tensors(folder, lambda tensors: tensors.update({name: x.bfloat16() for name, x in tensors.items()}))
    decoder = load_decoder(folder, "fp32")
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.float32}
    assert torch.equal(decoder.embed.weight, load_file(folder / WEIGHTS)["model.embed_tokens.weight"].float())


def test_tied_head_stays_one_tensor_even_if_the_file_has_two(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")  # saved untied, so the file holds a head of its own
    change_config(folder, tie_word_embeddings=True)
    decoder = load_decoder(folder)
    assert decoder.head.weight is decoder.embed.weight


def test_rotary_buffers_of_old_checkpoints_are_skipped(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    change_tensors(folder, lambda tensors: tensors.update(buffer))
    load_decoder(folder)


def test_weights_survive_the_loss_of_their_file(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    decoder = load_decoder(folder)
    before = decoder.norm.weight.clone()
    with (folder / WEIGHTS).open("r+b") as stream:
        stream.write(bytes(os.path.getsize(folder / WEIGHTS)))
    assert torch.equal(decoder.norm.weight, before)


def test_code_named_by_the_config_is_never_run(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    change_config(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"})
    (folder / "modeling_evil.py").write_text("raise SystemExit('remote code was run')")
    load_decoder(folder)


def test_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "was_run"),)

    _, folder = save_tiny(tmp_path, "llama")
    (folder / WEIGHTS).unlink()
    torch.save({NORM: Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin .*a pickle that needs code is refused"):
        load_decoder(folder)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 half a zip", b"\x80\x02}q.", bytes(5000)], ids=str)
def test_bin_that_is_no_bin_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not a whole file"):
        load_decoder(folder)


@pytest.mark.parametrize(
    ("content", "message"), [([torch.ones(2)], "holds a list"), ({"step": 3}, "step is a int, not a tensor")]
)
def test_bin_that_holds_something_else_is_refused(tmp_path: Path, content: object, message: str) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    (folder / WEIGHTS).unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        load_decoder(folder)


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.01, 0.5, 0.999])
def test_half_downloaded_safetensors_file_is_refused_by_name(tmp_path: Path, kept: float) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    file = folder / WEIGHTS
    size = int(file.stat().st_size * kept)
    os.truncate(file, size)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors is {size} bytes"):
        load_decoder(folder)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_half_downloaded_bin_is_refused_by_name(tmp_path: Path, kept: float) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    file = as_single_bin(folder)
    os.truncate(file, int(file.stat().st_size * kept))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not a whole file"):
        load_decoder(folder)


def test_cut_short_file_names_the_first_tensor_that_is_lost(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    file = folder / WEIGHTS
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"tensor model\.\S+ ends at byte \d+: cut short"):
        load_decoder(folder)


@pytest.mark.parametrize(
    "header", [b"{not json", b"[]", b'{"a": 1}', b'{"a": {"shape": [1], "dtype": "F32"}}', b'{"a": {"shape": 3}}']
)
def test_broken_safetensors_header_is_refused_by_name(tmp_path: Path, header: bytes) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has a broken header"):
        load_decoder(folder)


def test_bytes_that_no_tensor_owns_make_the_file_corrupt(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    with (folder / WEIGHTS).open("ab") as stream:
        stream.write(b"tail")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: model\.embed_tokens\.weight cannot be read"):
        load_decoder(folder)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_missing_shard_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    shards = as_shards(folder, suffix=suffix, save={"safetensors": save_file, "bin": torch.save}[suffix])
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"00002-of-00002\.{suffix} is missing; .*index\.json says it holds \S+"):
        load_decoder(folder)


def test_tensor_the_index_promises_in_vain_is_refused_by_name(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    shards = as_shards(folder, suffix="safetensors", save=save_file)
    tensors = load_file(shards[0])
    lost = min(tensors)
    del tensors[lost]
    save_file(tensors, shards[0])
    with pytest.raises(CheckpointError, match=f"00001-of-00002.safetensors lacks the tensor {lost}"):
        load_decoder(folder)


def test_index_without_a_weight_map_is_refused(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": null}')
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map is None"):
        load_decoder(folder)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_decoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(GATE), rf"lacks the tensor {GATE} of shape \(160, 64\)"),
        (
            lambda tensors: tensors.update({GATE: torch.ones(160, 63)}),
            rf"{WEIGHTS}: {GATE} has shape \(160, 63\), the config asks for \(160, 64\)",
        ),
        (lambda tensors: tensors.update({"linear.weight": torch.ones(1)}), rf"{WEIGHTS}: linear\.weight is a tensor"),
        (
            lambda tensors: tensors.update({NORM: torch.ones(64, dtype=torch.int32)}),
            rf"{WEIGHTS}: {NORM} is torch.int32, must be floating point",
        ),
        (lambda tensors: tensors[GATE][3].fill_(torch.nan), rf"{WEIGHTS}: {GATE} holds NaN or infinity"),
        (lambda tensors: tensors[NORM][3:4].fill_(-torch.inf), rf"{WEIGHTS}: {NORM} holds NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_decoder(folder)


def test_config_that_claims_a_billion_layers_is_refused_at_once(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "llama")
    change_config(folder, num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.layers\.3\."):
        load_decoder(folder)


def test_split_projections_in_a_zhinao_folder_are_refused_by_name(tmp_path: Path) -> None:
    _, folder = save_tiny(tmp_path, "qwen2")
    change_config(folder, architectures=["ZhinaoForCausalLM"])
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.layers\.0\.self_attn\.qkv_proj\.weight"):
        load_decoder(folder)


def test_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="dtype is 'fp12', must be one of"):
        load_decoder(tmp_path, "fp12")
