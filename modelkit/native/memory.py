"""Memory in pages of 2 MiB: most steps wait for memory, and with small pages also for its addresses."""

import contextlib
import math
import mmap
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_CHUNK: Final = 64 << 20  # bytes asked for at once
_LINE: Final = 64


class WeightMemory:
    """Takes copies of tensors into few large areas. What is taken stays as long as one of its copies lives."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)  # the rest of the newest area

    def take(self, tensor: Tensor) -> Tensor:
        """A contiguous copy that starts with a cache line."""
        size = -(-tensor.nbytes // _LINE) * _LINE
        if size > len(self._free):
            self._free = _area(max(_CHUNK, size))
        place, self._free = self._free[: tensor.nbytes], self._free[size:]
        copy = place.view(tensor.dtype).view(tensor.shape)
        return copy.copy_(tensor)


def in_large_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros of which a page is used once something in it is touched."""
    return _area(math.prod(shape) * dtype.itemsize).view(dtype).view(*shape)


def _area(size: int) -> Tensor:
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.uint8)
