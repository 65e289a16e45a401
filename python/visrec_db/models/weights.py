"""The tensors of a model's weights, whichever of the two usual files they came in.

The hub has most weights twice: ``model.safetensors``, and ``pytorch_model.bin`` as torch pickles
it. Both are read here without torch, and nothing that a pickle names is run.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
INDEX = re.compile(r"(model\.safetensors|pytorch_model\.bin)\.index\.json")

MAX_HEADER = 100 << 20
"""Bytes of a header: the limit of safetensors' own library."""

NOT_LEARNT = "position_ids"
"""The last part of the name of 0, 1, 2 …, which older libraries stored as if it were a weight."""

_TYPES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


class Unreadable(Exception):
    """A file of another form; it counts as the bytes that it is."""


class _Storage(NamedTuple):
    type: str
    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]


def digest(files: Sequence[Path]) -> bytes:
    """Returns what tells the tensors in ``files``, together, from others: names, types, content.

    Raises ``Unreadable`` or OSError.
    """
    found: dict[str, bytes] = {}
    for file in files:
        tensors = _safetensors(file) if SAFETENSORS.fullmatch(file.name) else _pickled(file)
        for name, kind, shape, content in tensors:
            if name.rpartition(".")[2] != NOT_LEARNT:
                found[name] = f"{kind}{list(shape)}\0".encode() + content
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(name.encode() + b"\0" + found[name])
    return whole.digest()


_Found = Iterator[tuple[str, str, Sequence[int], bytes]]


def _safetensors(file: Path) -> _Found:
    """Yields name, type, shape and the content's SHA-256 (see the format's description)."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= MAX_HEADER:
            raise Unreadable
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                for name, tensor in header.items():
                    first, last = (8 + length + at for at in tensor["data_offsets"])
                    if not 8 + length <= first <= last <= len(mapped):
                        raise Unreadable
                    with memoryview(mapped) as whole, whole[first:last] as content:
                        hashed = hashlib.sha256(content).digest()
                    yield name, str(tensor["dtype"]), tensor["shape"], hashed
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Unreadable from error


def _pickled(file: Path) -> _Found:
    """Yields the same of what ``torch.save`` wrote of a dictionary of tensors."""
    try:
        with zipfile.ZipFile(file) as archive:
            [listed] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            folder = listed.removesuffix("data.pkl")
            with archive.open(listed) as stream:
                tensors = _Unpickler(stream).load()
            for name, tensor in tensors.items():
                if not (isinstance(name, str) and isinstance(tensor, _Tensor)):
                    raise Unreadable
                kind, size = _TYPES[tensor.storage.type]
                content = archive.read(f"{folder}data/{tensor.storage.key}")
                first = tensor.offset * size
                part = memoryview(content)[first : first + math.prod(tensor.shape) * size]
                yield name, kind, tensor.shape, hashlib.sha256(part).digest()
    except (zipfile.BadZipFile, pickle.UnpicklingError, *_ODD) as error:
        raise Unreadable from error


_ODD = (ValueError, TypeError, KeyError, AttributeError, EOFError, IndexError, NotImplementedError)


class _Unpickler(pickle.Unpickler):
    """Knows tensors and what holds them; a pickle that names anything else is not read."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return _rebuild
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "torch", _ if name in _TYPES:
                return name
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, found: Any) -> _Storage:
        _, kind, key, *_ = found
        return _Storage(kind, key)


def _rebuild(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> _Tensor:
    step = 1
    for size, given in zip(reversed(shape), reversed(stride), strict=True):
        if size > 1 and given != step:
            raise pickle.UnpicklingError("not in one piece")
        step *= size
    return _Tensor(storage, offset, shape)
