"""Models on disk: the files that make one, and the fingerprint that tells it from others."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from visrec_db import errors
from visrec_db.models import weights

WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx")
COMPILED = "openvino"
"""The folder of a model that holds its compiled form: made from the model, no part of it."""


def fingerprint(directory: str) -> str:
    """Returns what tells one model's vectors from another's: 32 hexadecimal digits.

    SHA-256 over the tensors of the weights, whether they came as safetensors or as torch's pickle,
    and over the name and content of every JSON file beside them (the preprocessing is part of the
    model). Reads the whole directory: about a second for CLIP.
    """
    root = Path(directory)
    whole = hashlib.sha256()
    try:
        groups: dict[Path, list[Path]] = defaultdict(list)
        for file in sources(root):
            usual = weights.SAFETENSORS.fullmatch(file.name) or weights.PICKLED.fullmatch(file.name)
            if usual:
                groups[file.parent].append(file)
            else:
                groups[file].append(file)
        for place, files in sorted(groups.items()):
            whole.update(f"{place.relative_to(root)}\0".encode())
            whole.update(_content(files) if place.is_dir() else _bytes(files))
    except OSError as error:
        raise errors.EncoderUnavailable(
            f'the model in "{directory}" cannot be read: {error}',
            hint="The server's operating-system user must be able to read all its files.",
        ) from error
    return whole.hexdigest()[:32]


def _content(files: Sequence[Path]) -> bytes:
    try:
        return weights.digest(files)
    except weights.Unreadable:
        return _bytes(files)


def _bytes(files: Sequence[Path]) -> bytes:
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.digest()


def sources(directory: Path) -> list[Path]:
    """Returns the files that make a model what it is: weights, and the JSON files beside them.

    Not the pickled weights beside safetensors, which no library would read, nor lists of files.
    """
    if not directory.is_dir():
        raise errors.EncoderUnavailable(
            f'model directory "{directory}" does not exist or cannot be read',
            hint="Fetch the model on the server: visrec model pull NAME.",
        )
    files = [
        file
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.relative_to(directory).parts[0] != COMPILED
    ]
    safe = {file.parent for file in files if weights.SAFETENSORS.fullmatch(file.name)}
    kept = [
        file
        for file in files
        if (file.suffix in WEIGHTS or file.suffix == ".json")
        and not weights.INDEX.fullmatch(file.name)
        and not (file.parent in safe and weights.PICKLED.fullmatch(file.name))
    ]
    if not any(file.suffix in WEIGHTS for file in kept):
        raise errors.EncoderUnavailable(f'directory "{directory}" contains no model weights')
    return kept


def directory_name(name: str) -> str:
    """Returns the folder under the model directory, and the name the model is registered under."""
    return name.rsplit("/", 1)[-1]
