"""Decides nothing: changes how many threads compute, in torch and in the C++ library alike."""

import torch

from modelkit.native.library import best_library


def use_threads(count: int) -> None:
    """Compute with so many from now on; to be called by the thread that computes, between two steps."""
    if count == torch.get_num_threads():
        return
    torch.set_num_threads(count)
    if (found := best_library()) is not None:
        _, library = found
        library.use_threads(count)
