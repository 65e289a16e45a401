"""Image files: found under the administrator's roots, read once, and told apart by a stamp.

What a path leads to (symbolic links followed) must be a regular file inside one of the roots, and
what was checked is what is read: the file is first pinned with O_PATH, which has no side effect
even on a device or a pipe, and read through that handle.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from visrec_db import errors

MAX_READ_ATTEMPTS = 3
"""Times that a file is read which changes meanwhile."""

URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


@dataclass(frozen=True)
class Policy:
    """What an administrator allows (``visrec.setting``)."""

    roots: tuple[str, ...]
    max_bytes: int
    max_pixels: int
    max_seconds: float = 20.0

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Policy:
        """Makes it of what ``protocol.policy`` returns."""
        return cls(**{**found, "roots": tuple(found["roots"])})


@dataclass(frozen=True)
class Content:
    """The bytes of an image; ``stamp`` says which content of a file they are, if of a file."""

    data: bytes
    stamp: int | None = None


def read_file(path: str, policy: Policy) -> Content:
    """Reads a regular file under one of ``policy.roots``.

    ``path`` is absolute inside a root, or relative to one: the first that has it. ``..`` is
    refused, and a path or link that leads outside is refused whether or not anything is there.
    """
    with _pinned(path, policy) as pinned:
        return _read_pinned(pinned, policy.max_bytes)


def file_stamps(paths: Sequence[str], policy: Policy) -> list[int | None]:
    """Returns each file's stamp as it is now, without reading it; None where it has none."""
    return [_file_stamp(path, policy) for path in paths]


def _file_stamp(path: str, policy: Policy) -> int | None:
    try:
        with _pinned(path, policy) as pinned:
            status = os.fstat(pinned)
    except errors.ImageError:
        return None
    return _stamp(status) if stat.S_ISREG(status.st_mode) else None


def _stamp(status: os.stat_result) -> int:
    """63 bits that change when the file is written to."""
    digest = hashlib.sha256(f"{status.st_size}:{status.st_mtime_ns}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def _pinned(path: str, policy: Policy) -> Iterator[int]:
    """A handle that names the file at ``path`` without opening it."""
    if not path:
        raise errors.ImageMissing("the path is empty")
    if URL.match(path):
        raise errors.ImageUnreadable(
            "images are not fetched from URLs yet",
            hint="The image must be a file under image_roots.",
        )
    parts = PurePosixPath(path)
    if ".." in parts.parts:
        raise errors.ImageOutsideRoots('the path contains ".."')
    roots = [PurePosixPath(root) for root in policy.roots]
    inside = [root for root in roots if parts.is_relative_to(root)] if path[0] == "/" else roots
    if not inside:
        raise errors.ImageOutsideRoots(
            "the path is not inside any directory of image_roots",
            hint="An administrator can add one: SELECT visrec.set('image_roots', '…').",
        )
    real_roots = [PurePosixPath(os.path.realpath(root)) for root in roots]
    for root in inside:
        pinned = _pin(root / parts, real_roots)
        if pinned is not None:
            try:
                _check_inside(str(Path(f"/proc/self/fd/{pinned}").readlink()), real_roots)
                yield pinned
            finally:
                os.close(pinned)
            return
    raise errors.ImageMissing(f"no such file under image_roots ({':'.join(policy.roots)})")


def _pin(path: PurePosixPath, real_roots: Sequence[PurePosixPath]) -> int | None:
    """Returns a handle; None where there is no such file inside the roots."""
    try:
        real = os.path.realpath(path)
        _check_inside(real, real_roots)
        return os.open(real, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise errors.ImageUnreadable(f"the file cannot be opened: {_reason(error)}") from error


def _check_inside(real: str, real_roots: Sequence[PurePosixPath]) -> None:
    if not any(PurePosixPath(real).is_relative_to(root) for root in real_roots):
        raise errors.ImageOutsideRoots("the path is a link that leads out of image_roots")


def _read_pinned(pinned: int, max_bytes: int) -> Content:
    for _ in range(MAX_READ_ATTEMPTS):
        before = os.fstat(pinned)
        if not stat.S_ISREG(before.st_mode):
            raise errors.ImageUnreadable("the path is not a regular file")
        if before.st_size > max_bytes:
            raise errors.ImageTooLarge(
                f"the file has {before.st_size} bytes, more than max_image_bytes = {max_bytes}"
            )
        try:
            handle = f"/proc/self/fd/{pinned}"
            with open(handle, "rb", buffering=0) as file:  # noqa: PTH123 - a handle, not a path
                data = _read_at_most(file, max_bytes + 1)
        except OSError as error:
            raise errors.ImageUnreadable(f"the file cannot be read: {_reason(error)}") from error
        if len(data) == before.st_size and _state(before) == _state(os.fstat(pinned)):
            return Content(data, _stamp(before))
    raise errors.ImageUnreadable("the file changes while it is read")


def _state(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is written to."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_at_most(file: io.FileIO, limit: int) -> bytes:
    """Reads up to ``limit`` bytes, also of a file that grows meanwhile."""
    chunks: list[bytes] = []
    while limit > 0 and (chunk := file.read(min(limit, 1 << 20))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
