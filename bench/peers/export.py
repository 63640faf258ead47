"""Writes an encoder, or a cross-encoder, as ONNX for the engines that read it; runs where torch and onnx both are."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def _pooled(folder: Path, torch: Any) -> Any:  # noqa: ANN401  (modules)
    """The model, the mean of its last hidden states, and their length made one."""
    model = import_module("transformers").BertModel.from_pretrained(folder).eval()

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:  # noqa: ANN401  (tensors)
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=1)

    return Pooled().eval()


def _scored(folder: Path, torch: Any) -> Any:  # noqa: ANN401  (modules)
    """The logits of a classifier."""
    model = import_module("transformers").BertForSequenceClassification.from_pretrained(folder).eval()

    class Scored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:  # noqa: ANN401
            return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits

    return Scored().eval()


def main() -> None:
    """Export the folder named on the command line, an `encoder` or a `cross-encoder`, to `model.onnx` in it."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    torch: Any = import_module("torch")  # here: it exists in the exporting environment only
    names = ["input_ids", "attention_mask", "token_type_ids"][: 2 if kind == "encoder" else 3]
    ids = torch.randint(1000, 20000, (2, 17))
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))[: len(names)]
    axes = {name: {0: "rows", 1: "tokens"} for name in names} | {"answers": {0: "rows"}}
    torch.onnx.export(
        *((_pooled if kind == "encoder" else _scored)(folder, torch), inputs, str(folder / "model.onnx")),
        **{"input_names": names, "output_names": ["answers"], "dynamic_axes": axes, "dynamo": False},
    )


if __name__ == "__main__":
    main()
