"""Models on disk: what kind is in a directory, the fingerprint of its weights, how to fetch one."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from visrec_db import errors

WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx")
COMPILED = "openvino"
"""The folder of a model that holds its compiled form: made from the model, no part of it."""

NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
NOT_FETCHED = ["*.onnx", "*.xml", "onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot"]


def fingerprint(directory: str) -> str:
    """Returns what tells one model's vectors from another's: 32 hexadecimal digits.

    SHA-256 over the name and content of the weights and of every JSON file beside them (the
    preprocessing is part of the model). Reads the whole directory: about a second for CLIP.
    """
    root = Path(directory)
    kept = sources(root)
    digest = hashlib.sha256()
    try:
        for file in kept:
            digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise errors.EncoderUnavailable(
            f'the model in "{directory}" cannot be read: {error}',
            hint="The server's operating-system user must be able to read all its files.",
        ) from error
    return digest.hexdigest()[:32]


def sources(directory: Path) -> list[Path]:
    """Returns the files that make a model what it is: weights, and the JSON files beside them."""
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
    kept = [file for file in files if file.suffix in WEIGHTS or file.suffix == ".json"]
    if not any(file.suffix in WEIGHTS for file in kept):
        raise errors.EncoderUnavailable(f'directory "{directory}" contains no model weights')
    return kept


def repository(name: str) -> str:
    """Returns the hub's name of a model: sentence-transformers' own where no owner is named."""
    if not NAME.fullmatch(name):
        raise errors.EncoderUnavailable(
            f'"{name}" is not the name of a model',
            hint="Names are as on the hub: owner/name, or clip-ViT-B-32.",
        )
    return name if "/" in name else f"sentence-transformers/{name}"


def directory_name(name: str) -> str:
    """Returns the folder under the model directory, and the name the model is registered under."""
    return name.rsplit("/", 1)[-1]


def pull(name: str, model_directory: Path, check: Callable[[Path], object]) -> Path:
    """Fetches a model into ``model_directory``, showing progress; a model already there is kept.

    It appears under its name only when it is whole and ``check``, which loads it, has returned.
    Raises ``EncoderUnavailable`` where it cannot be fetched or loaded.
    """
    source = repository(name)
    target = model_directory / directory_name(name)
    if target.exists():
        return target
    model_directory.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=model_directory))
    try:
        _download(source, unfinished, target)
        shutil.rmtree(unfinished / ".cache", ignore_errors=True)
        check(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return target


def _download(source: str, directory: Path, target: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - the server never needs it
    from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415
    from huggingface_hub.utils import filter_repo_objects  # noqa: PLC0415

    try:
        found = HfApi().model_info(source, timeout=30)
        files = [file.rfilename for file in found.siblings or ()]
        # One by one and in this thread, so that Ctrl-C ends it: the threads of the hub's own
        # snapshot_download go on until they have all, or have given up.
        for file in filter_repo_objects(files, ignore_patterns=NOT_FETCHED):
            hf_hub_download(source, file, revision=found.sha, local_dir=directory)
    except RepositoryNotFoundError as error:
        raise errors.EncoderUnavailable(
            f'the model hub has no public model "{source}"',
            hint="Give its name as on the hub: owner/name.",
        ) from error
    except Exception as error:  # whatever the hub's library and those beneath it raise
        if isinstance(error, OSError) and error.errno is not None:
            raise  # this machine's: no space, no permission
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        raise errors.EncoderUnavailable(
            f'model "{source}" cannot be fetched: {reason}',
            hint="Check the network, and HTTPS_PROXY where there is a proxy; or copy the model's"
            f" directory from another machine to {target}.",
        ) from error
