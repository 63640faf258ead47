"""Makes the two rerankers that are measured, of the demo weights and random heads; knows no engine."""

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import BertForSequenceClassification

from bench.rerank_rows import CROSS_ENCODER, DECODER
from mesh.cache import demo_checkpoint

_SEED = 5


def main() -> None:
    """Write both folders, unless they are there."""
    if not CROSS_ENCODER.exists():
        _make_cross_encoder(CROSS_ENCODER)
    if not DECODER.exists():
        _make_decoder(DECODER)


def _make_cross_encoder(folder: Path) -> None:
    """The demo encoder with a random classifier; the classifier also by itself, for engines that have none."""
    torch.manual_seed(_SEED)
    model = BertForSequenceClassification.from_pretrained(demo_checkpoint("embed"), num_labels=1)
    model.save_pretrained(folder)
    np.save(folder / "classifier.npy", model.classifier.weight[0].detach().numpy())
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).symlink_to(demo_checkpoint("embed") / name)


def _make_decoder(folder: Path) -> None:
    """The demo chat model with a random linear head, as the Zhinao reranker has one."""
    demo = demo_checkpoint()
    folder.mkdir(parents=True)
    for file in demo.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "model.safetensors").unlink()
    (folder / "vocab.txt").symlink_to(demo_checkpoint("embed") / "vocab.txt")  # of which documents are made
    file = safe_open(demo / "model.safetensors", framework="pt")
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    head = torch.randn((1, 576), generator=torch.Generator().manual_seed(_SEED))
    save_file(tensors | {"linear.weight": head}, folder / "model.safetensors")


if __name__ == "__main__":
    main()
