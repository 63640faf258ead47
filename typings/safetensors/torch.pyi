from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

def save_file(tensors: Mapping[str, Tensor], filename: Path, metadata: Mapping[str, str] | None = None) -> None: ...
