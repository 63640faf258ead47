"""The encoder and its checkpoints against transformers' BERT."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelkit.config import CheckpointError
from modelkit.encoder_checkpoint import EncoderCheckpoint, load_encoder
from modelkit.precision import Precision
from modelkit.row_encoder import load_row_encoder
from modelkit.sentence import Pooling
from tests.fixtures.tiny_bert import VOCABULARY, save_tiny_bert

LENGTHS = (5, 1, 48, 17)


def tokens(length: int, seed: int) -> Tensor:
    return torch.randint(len(VOCABULARY), (length,), generator=torch.Generator().manual_seed(seed))


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@torch.no_grad()
def test_hidden_states_of_packed_rows_are_those_of_transformers(tmp_path: Path) -> None:
    model = save_tiny_bert(tmp_path)
    encoder = load_encoder(EncoderCheckpoint.open(tmp_path))
    rows = [tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    types = [(torch.arange(len(row)) >= 3).long() for row in rows]
    expected = [
        model(row[None], token_type_ids=t[None]).last_hidden_state[0] for row, t in zip(rows, types, strict=True)
    ]
    found = encoder(torch.cat(rows), torch.cat(types), LENGTHS)
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_pair_is_pooled_as_a_cross_encoder_wants_it(tmp_path: Path) -> None:
    model = save_tiny_bert(tmp_path, classifier=True)
    checkpoint = EncoderCheckpoint.open(tmp_path)
    row = tokens(9, 0)
    first = load_row_encoder(checkpoint, Precision.FP32).pool([row.tolist()], Pooling.CLS, [4])
    pooled = torch.tanh(first @ checkpoint.read("pooler.dense.weight").T + checkpoint.read("pooler.dense.bias"))
    logit = pooled @ checkpoint.read("classifier.weight").T + checkpoint.read("classifier.bias")
    expected = model(row[None], token_type_ids=(torch.arange(9) >= 4).long()[None]).logits
    torch.testing.assert_close(logit, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["bin", "old names", "half"])
def test_weights_are_found_however_they_are_stored(tmp_path: Path, form: str) -> None:
    save_tiny_bert(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    if form == "half":
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    if form == "old names":
        renamed = ((name, "gamma" if name.endswith("weight") else "beta") for name in tensors)
        tensors = {
            "bert." + (name.rpartition(".")[0] + "." + old if "LayerNorm" in name else name): tensors[name]
            for name, old in renamed
        }
    file.unlink()
    if form == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, file)
    checkpoint = EncoderCheckpoint.open(tmp_path)
    assert checkpoint.read("encoder.layer.2.output.LayerNorm.weight").dtype is torch.float32
    assert len(list(checkpoint.parameters())) == 5 + 3 * 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', only 'gelu'"),
        ({"architectures": ["RobertaModel"]}, "architectures is .*RobertaModel.*BertModel"),
        ({"num_attention_heads": 3}, "hidden_size 64 is not a multiple of num_attention_heads 3"),
        ({"num_hidden_layers": 10**9}, "lacks the tensor encoder.layer.3.attention.self.query.weight of shape"),
        ({"intermediate_size": 128}, r"intermediate.dense.weight has shape \(160, 64\), config asks for \(128, 64\)"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_tiny_bert(tmp_path)
    edit_config(tmp_path, **change)
    with pytest.raises(CheckpointError, match=message):
        EncoderCheckpoint.open(tmp_path)


def test_head_that_is_not_there_is_named(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks the tensor classifier\.weight"):
        EncoderCheckpoint.open(tmp_path).read("classifier.weight")
