"""Fetching a model from the hub: what is needed of it, checked, and all of it or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from visrec_db import errors
from visrec_db.models import models, weights

NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
FOLDERS_LEFT_OUT = {"onnx", models.COMPILED, "coreml"}
SUFFIXES_LEFT_OUT = {".onnx", ".xml", ".h5", ".msgpack", ".ot", ".tflite", ".mlmodel"}
"""Other libraries' forms of the same weights."""


def repository(name: str) -> str:
    """Returns the hub's name of a model: sentence-transformers' own where no owner is named."""
    if not NAME.fullmatch(name):
        raise errors.EncoderUnavailable(
            f'"{name}" is not the name of a model',
            hint="Names are as on the hub: owner/name, or clip-ViT-B-32.",
        )
    return name if "/" in name else f"sentence-transformers/{name}"


def pull(name: str, model_directory: Path, finish: Callable[[Path], object]) -> Path:
    """Fetches a model into ``model_directory``, showing progress; a model already there is kept.

    It appears under its name only when it is whole, every file has the hub's checksum, and
    ``finish`` has returned, which loads it. Whatever ends the work before, nothing of it is left.
    Raises ``EncoderUnavailable`` where it cannot be fetched or loaded.
    """
    source = repository(name)
    target = model_directory / models.directory_name(name)
    if target.exists():
        return target
    model_directory.mkdir(parents=True, exist_ok=True)
    with _unfinished(target) as directory:
        _download(source, directory, target)
        shutil.rmtree(directory / ".cache", ignore_errors=True)
        finish(directory)
        directory.chmod(0o755)
        directory.rename(target)
    return target


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Yields an empty hidden directory beside ``target``, which is removed if an error ends this.

    A lock says that somebody is at work there: what was killed outright is removed by the next.
    """
    for left in target.parent.glob(f".{target.name}-*"):
        with contextlib.suppress(OSError):  # at work, or removed meanwhile
            os.close(_locked(left))
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    lock = _locked(directory)
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _locked(directory: Path) -> int:
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _download(source: str, directory: Path, target: Path) -> None:
    # The hub's second way to transfer files keeps copies in the caller's home, and needs a host
    # that few proxies allow.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - the server never needs it
    from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415

    try:
        found = HfApi().model_info(source, timeout=30, files_metadata=True)
        files = {file.rfilename: file for file in found.siblings or ()}
        # One by one and in this thread, so that Ctrl-C ends it: the threads of the hub's own
        # snapshot_download go on until they have all, or have given up.
        for name in needed(list(files)):
            hf_hub_download(source, name, revision=found.sha, local_dir=directory)
            _check(directory / name, files[name], source)
    except RepositoryNotFoundError as error:
        raise errors.EncoderUnavailable(
            f'the model hub has no public model "{source}"',
            hint="Give its name as on the hub: owner/name.",
        ) from error
    except errors.VisrecError:
        raise
    except Exception as error:  # whatever the hub's library and those beneath it raise
        if isinstance(error, OSError) and error.errno is not None:
            raise  # this machine's: no space, no permission
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        raise errors.EncoderUnavailable(
            f'model "{source}" cannot be fetched: {reason}',
            hint="Check the network, and HTTPS_PROXY where there is a proxy, HF_ENDPOINT where"
            f" there is a mirror; or copy the model's directory from another machine to {target}.",
        ) from error


def needed(names: Sequence[str]) -> list[str]:
    """Returns the files to fetch: of weights that are there twice, the safetensors alone."""
    folders: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        if path.parts[0] not in FOLDERS_LEFT_OUT and path.suffix not in SUFFIXES_LEFT_OUT:
            folders[path.parent].append(path)
    kept: list[PurePosixPath] = []
    for paths in folders.values():
        some = [path for path in paths if path.suffix in models.WEIGHTS]
        for form, index in (
            (weights.SAFETENSORS, "model.safetensors.index.json"),
            (weights.PICKLED, "pytorch_model.bin.index.json"),
        ):
            chosen = [path for path in some if form.fullmatch(path.name)]
            if chosen:
                others = {path for path in paths if weights.INDEX.fullmatch(path.name)}
                others = {path for path in others if path.name != index} | {*some} - {*chosen}
                kept += [path for path in paths if path not in others]
                break
        else:
            kept += paths
    return sorted(map(str, kept))


def _check(file: Path, expected: Any, source: str) -> None:
    """Raises ``EncoderUnavailable`` where a file is not the one that the hub has."""
    with file.open("rb") as stream:
        if expected.lfs is not None:
            wanted, found = expected.lfs.sha256, hashlib.file_digest(stream, "sha256").hexdigest()
        else:  # git's name of a file's content
            head = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
            head.update(stream.read())
            wanted, found = expected.blob_id, head.hexdigest()
    if wanted != found:
        what = "has other bytes than the hub's" if wanted else "has no checksum on the hub"
        raise errors.EncoderUnavailable(
            f'model "{source}" cannot be fetched: file "{expected.rfilename}" {what}',
            hint="Try again; a proxy or a mirror may have damaged it.",
        )
