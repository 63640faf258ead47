"""Decides where each tensor of a checkpoint folder lies and whether its file is whole; knows no architecture."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modelkit.config import CheckpointError, read_json


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


def _open_shards(index: Path, opener: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    weight_map: object = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: weight_map is missing")
    promised = cast(dict[str, str], weight_map)
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
    header = _safetensors_header(file)
    try:
        handle = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not a whole safetensors file: {error}") from error
    return {
        name: StoredTensor(file, tuple(entry["shape"]), partial(handle.get_tensor, name))
        for name, entry in header.items()
    }


def _safetensors_header(file: Path) -> dict[str, dict[str, Any]]:
    """The file's own table of tensors, checked against its size. Source: the safetensors format description."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_size > size - 8:
            raise CheckpointError(f"{file} is {size} bytes, its header alone claims {8 + header_size}: not whole")
        header_bytes = stream.read(header_size)
    try:
        header: dict[str, dict[str, Any]] = json.loads(header_bytes)
    except ValueError as error:
        raise CheckpointError(f"{file} has a header that is not JSON: {error}") from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        end = 8 + header_size + entry["data_offsets"][1]
        if end > size:
            raise CheckpointError(f"{file} is {size} bytes, tensor {name} ends at byte {end}: cut short")
    return header


def _open_bin(file: Path) -> dict[str, StoredTensor]:
    try:
        content: object = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise CheckpointError(f"{file} is not a whole file of plain tensors: {error}") from error
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
