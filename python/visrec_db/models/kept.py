"""The cache of compiled models: a directory of the server's user, filled by one process.

An entry is named after the model's fingerprint and what else decides whether it can be used: the
versions of visrec and OpenVINO, and the kind of processor. It appears under its name when it is
whole. Instead of an entry there may be a note why a model cannot be compiled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from visrec_db import __version__, errors
from visrec_db.encoders import hardware

MOST = 8
"""Models that are kept; what was longest not used goes first."""

ROOM = 512 << 20
"""Bytes that must be left on the disk, which is the server's own."""

REFUSED = ".refused"


def place(cache: Path, fingerprint: str) -> Path:
    """Returns where the compiled form of a model is, or would be, for this machine."""
    try:
        openvino = metadata.version("openvino")
    except metadata.PackageNotFoundError:
        openvino = "none"
    made_by = f"{__version__} {openvino} {hardware.processor()}"
    return cache / f"{fingerprint}-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}"


def is_ours(cache: Path) -> bool:
    """Returns whether it is this user's directory, and nobody else can enter it."""
    try:
        status = cache.lstat()
    except OSError:
        return False
    private = not stat.S_IMODE(status.st_mode) & 0o077
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and private


def refused(cache: Path, fingerprint: str) -> str | None:
    """Returns why the model cannot be compiled, if that was found out before."""
    if not is_ours(cache):
        return None
    note = place(cache, fingerprint)
    try:
        return note.with_name(note.name + REFUSED).read_text()
    except OSError:
        return None


def refuse(cache: Path, fingerprint: str, reason: str) -> None:
    """Notes it, so that it is not tried at every start."""
    note = place(cache, fingerprint)
    note.with_name(note.name + REFUSED).write_text(reason)


def used(folder: Path) -> None:
    """Notes that an entry is in use; a folder of somebody else's stays as it is."""
    with contextlib.suppress(OSError):
        os.utime(folder)


@contextlib.contextmanager
def opened(cache: Path) -> Iterator[None]:
    """Makes the cache and holds it for this process alone, without what crashes left in it.

    Raises ``EncoderUnavailable`` where another process has it or another user could.
    """
    cache.mkdir(mode=0o700, exist_ok=True)
    if not is_ours(cache):
        raise errors.EncoderUnavailable(
            f'directory "{cache}" is not the server\'s own',
            hint="Remove it; the encoder makes it anew.",
        )
    lock = os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.EncoderUnavailable("another process compiles models") from None
        for left in cache.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def entry(cache: Path, fingerprint: str, size: int) -> Iterator[Path]:
    """Yields an empty folder that becomes the model's entry, unless an error ends the work.

    ``size``: bytes that it may take; raises OSError where the disk has not so many to spare.
    """
    free = shutil.disk_usage(cache).free
    if free < size + ROOM:
        raise OSError(
            f"the data directory has {free >> 20} MB left, and {(size + ROOM) >> 20} are needed"
        )
    target = place(cache, fingerprint)
    work = Path(tempfile.mkdtemp(prefix=".", dir=cache))
    try:
        yield work
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    tidy(cache, target)


def tidy(cache: Path, newest: Path) -> None:
    """Removes what earlier versions or another processor made of the same model, and the oldest."""
    fingerprint = newest.name.partition("-")[0]
    rest = []
    for each in cache.glob("[!.]*"):
        if each == newest:
            continue
        if each.name.startswith(f"{fingerprint}-"):
            _remove(each)
        else:
            rest.append(each)
    rest.sort(key=lambda each: each.stat().st_mtime)
    for each in rest[: max(0, len(rest) + 1 - MOST)]:
        _remove(each)


def _remove(each: Path) -> None:
    if each.is_dir():
        shutil.rmtree(each, ignore_errors=True)
    else:
        each.unlink(missing_ok=True)
