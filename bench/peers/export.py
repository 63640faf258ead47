"""Writes an encoder with mean pooling as ONNX, for the engines that read it; runs where torch and onnx both are."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    """Export the folder named on the command line to `model.onnx` in it."""
    folder = Path(sys.argv[1])
    torch: Any = import_module("torch")  # here: it exists in the exporting environment only
    model = import_module("transformers").BertModel.from_pretrained(folder).eval()

    class Pooled(torch.nn.Module):
        """The model, the mean of its last hidden states, and their length made one."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:  # noqa: ANN401  (tensors)
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=1)

    ids = torch.randint(1000, 20000, (2, 17))
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "rows", 1: "tokens"} for name in names} | {"vectors": {0: "rows"}}
    torch.onnx.export(
        *(Pooled().eval(), (ids, torch.ones_like(ids)), str(folder / "model.onnx")),
        **{"input_names": names, "output_names": ["vectors"], "dynamic_axes": axes, "dynamo": False},
    )


if __name__ == "__main__":
    main()
