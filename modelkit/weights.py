"""Decides where each tensor of a checkpoint folder lies and whether its file is whole; knows no architecture."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modelkit.config import CheckpointError, read_json

_STORED_DTYPES: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in its file; `read` maps it, so that its bytes enter memory when they are used."""

    file: Path
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def open_weights(folder: Path) -> dict[str, StoredTensor]:
    """Find every tensor of a folder: safetensors before `.bin`, sharded with an index before a single file.

    Raises CheckpointError naming file and tensor when there are no weights, when a file is missing, cut short or not
    what it claims to be, or when it lacks a tensor that the index promises. Pickles are read as weights only.
    """
    for single, opener in (("model.safetensors", _open_safetensors), ("pytorch_model.bin", _open_bin)):
        index = folder / f"{single}.index.json"
        if index.exists():
            return _open_shards(index, opener)
        if (folder / single).exists():
            return opener(folder / single)
    raise CheckpointError(f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin, nor an index")


def read_finite(name: str, stored: StoredTensor) -> Tensor:
    """A tensor in the dtype it is stored in; a view of the mapped file where the format allows.

    Raises CheckpointError when it cannot be read, is not of a plain floating-point dtype, or holds NaN or infinity.
    """
    tensor, file = stored.read(), stored.file
    if tensor.dtype not in _STORED_DTYPES:
        raise CheckpointError(f"{file}: {name} is {tensor.dtype}, must be floating point of 16 bits or more")
    if not all(torch.isfinite(extreme) for extreme in tensor.aminmax()):
        raise CheckpointError(f"{file}: {name} holds NaN or infinity")
    return tensor


def _open_shards(index: Path, opener: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    weight_map: object = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: weight_map is {weight_map!r}, must name the file of each tensor")
    promised = {name: str(shard) for name, shard in cast(dict[str, object], weight_map).items()}
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(promised.values())):
        file = index.parent / shard
        if not file.exists():
            tensor = next(name for name, named in promised.items() if named == shard)
            raise CheckpointError(f"{file} is missing; {index.name} says it holds {tensor} and others")
        found |= opener(file)
    for name, shard in promised.items():
        if name not in found:
            raise CheckpointError(f"{index.parent / shard} lacks the tensor {name} that {index.name} names")
    return found


def _open_safetensors(file: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(file, shape, partial(_read_safetensors, file, name))
        for name, shape in _safetensors_shapes(file).items()
    }


def _read_safetensors(file: Path, name: str) -> Tensor:
    # Opened for each tensor: one map of the whole file would keep every page that was read until the last one is.
    try:
        return safe_open(file, framework="pt").get_tensor(name)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: {name} cannot be read: {error}") from error


def _safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Every tensor in the file's header, checked against the file's size. Source: the safetensors format."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_size > size - 8:
            raise CheckpointError(f"{file} is {size} bytes, its header alone claims {8 + header_size}: not whole")
        header_bytes = stream.read(header_size)
    try:
        header: dict[str, Any] = json.loads(header_bytes)
        header.pop("__metadata__", None)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        ends = {name: 8 + header_size + entry["data_offsets"][1] for name, entry in header.items()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{file} has a broken header: {error!r}") from error
    for name, end in ends.items():
        if end > size:
            raise CheckpointError(f"{file} is {size} bytes, tensor {name} ends at byte {end}: cut short")
    return shapes


def _open_bin(file: Path) -> dict[str, StoredTensor]:
    is_zip = zipfile.is_zipfile(file)  # what torch wrote before 1.6 is none, and cannot be mapped
    try:
        content: object = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # broken bytes can make the unpickler fail in any way
        reason = f"{type(error).__name__}; a pickle that needs code is refused"
        raise CheckpointError(f"{file} is not a whole file of plain tensors ({reason})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, not named tensors")
    tensors = cast(dict[str, Tensor], content)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  (the file decides)
            raise CheckpointError(f"{file}: {name} is a {type(tensor).__name__}, not a tensor")
    return {
        name: StoredTensor(file, tuple(tensor.shape), partial(tensors.__getitem__, name))
        for name, tensor in tensors.items()
    }
