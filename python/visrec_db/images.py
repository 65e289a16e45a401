"""From a path or bytes to a checked RGB picture: roots, limits, orientation.

A path is opened once. What it leads to (symbolic links followed) must be a regular file inside
one of the administrator's roots, and what was checked is what is read: the file is first pinned
with O_PATH, which has no side effect even on a device or a pipe, and read through that handle.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from visrec_db import colours, errors
from visrec_db.limits import LARGE, Attempt, Data

Source = str | bytes | bytearray | memoryview
"""An image as a row holds it: a path, or the encoded picture itself."""

FORMATS = (
    "AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""What is decoded. EPS (runs Ghostscript) and the long tail of formats stay out."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""

UNSTOPPABLE = {"JPEG2000": 4}
"""Beside these decoders nothing else in the process runs: so many times fewer pixels may be."""

COPIES = {"AVIF": 2, "JPEG2000": 4, "WEBP": 4}
"""What these formats' decoders hold at once, as a multiple of the decoded picture."""

READINGS = 3
"""Times that a file is read which changes meanwhile."""

BLOCK = 8192
"""Bytes of a JPEG that are decoded between two looks at the clock: a few may say very much."""


@dataclass(frozen=True)
class Policy:
    """What an administrator allows (``visrec.setting``)."""

    roots: tuple[str, ...]
    max_bytes: int
    max_pixels: int
    max_seconds: float = 20.0


def open_picture(
    source: Source,
    policy: Policy,
    smallest: int | None = None,
    attempt: Attempt | None = None,
) -> Image.Image:
    """Read and decode ``source``: a picture in mode RGB, upright, transparency on white.

    Animations give their first frame. Where the format can be decoded at a half, a quarter or an
    eighth of its scale (JPEG), the smallest is taken that leaves both sides ``smallest`` pixels
    long, and a large picture of any format is shrunk as far; None: always the full scale.
    ``attempt`` is for who watches its time. Raises an ``ImageError`` that says what is wrong.
    """
    attempt = attempt or Attempt(policy.max_seconds)
    data = read_file(source, policy) if isinstance(source, str) else bytes(source)
    if len(data) > policy.max_bytes:
        raise errors.ImageTooLarge(
            f"the image has {len(data)} bytes, more than max_image_bytes = {policy.max_bytes}"
        )
    return _decode(data, policy.max_pixels, smallest, attempt)


def read_file(path: str, policy: Policy) -> bytes:
    """The bytes of a regular file under one of ``policy.roots``.

    ``path`` is absolute inside a root, or relative to one: the first that has it. ``..`` is
    refused, and what lies outside is never looked at, so nothing can be learned about it.
    """
    parts = PurePosixPath(path)
    if not path or ".." in parts.parts:
        raise errors.ImageOutsideRoots('the path is empty or contains ".."')
    roots = [PurePosixPath(root) for root in policy.roots]
    inside = [root for root in roots if parts.is_relative_to(root)] if path[0] == "/" else roots
    if not inside:
        raise errors.ImageOutsideRoots(
            "the path is not inside any directory of image_roots",
            hint="An administrator can add one: SELECT visrec.set('image_roots', '…').",
        )
    for root in inside:
        pinned = _pin(root / parts)
        if pinned is not None:
            try:
                return _read_pinned(pinned, roots, policy.max_bytes)
            finally:
                os.close(pinned)
    raise errors.ImageMissing(f"no such file under image_roots ({':'.join(policy.roots)})")


def _pin(path: PurePosixPath) -> int | None:
    """A handle that names the file without opening it; None where there is no such file."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise errors.ImageUnreadable(f"the file cannot be opened: {_reason(error)}") from error


def _read_pinned(pinned: int, roots: list[PurePosixPath], max_bytes: int) -> bytes:
    handle = f"/proc/self/fd/{pinned}"
    real = Path(handle).readlink()
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        raise errors.ImageOutsideRoots("the path is a link that leads out of image_roots")
    for _ in range(READINGS):
        before = os.fstat(pinned)
        if not stat.S_ISREG(before.st_mode):
            raise errors.ImageUnreadable("the path is not a regular file")
        if before.st_size > max_bytes:
            raise errors.ImageTooLarge(
                f"the file has {before.st_size} bytes, more than max_image_bytes = {max_bytes}"
            )
        try:
            with open(handle, "rb", buffering=0) as file:  # noqa: PTH123 - a handle, not a path
                data = _read_at_most(file, max_bytes + 1)
        except OSError as error:
            raise errors.ImageUnreadable(f"the file cannot be read: {_reason(error)}") from error
        if len(data) == before.st_size and _state(before) == _state(os.fstat(pinned)):
            return data
    raise errors.ImageUnreadable("the file changes while it is read")


def _state(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is written to."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_at_most(file: io.FileIO, limit: int) -> bytes:
    """Up to ``limit`` bytes, also of a file that grows while it is read."""
    chunks: list[bytes] = []
    while limit > 0 and (chunk := file.read(min(limit, 1 << 20))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _decode(data: bytes, max_pixels: int, smallest: int | None, attempt: Attempt) -> Image.Image:
    if not data:
        raise errors.NotAnImage("the image is empty (0 bytes)")
    Image.MAX_IMAGE_PIXELS = max_pixels  # for the decoders that check sizes of their own
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # remarks on flaws that do not matter
            Image.open(Data(data, attempt), formats=FORMATS) as picture,
        ):
            width, height = picture.size
            most = max_pixels // UNSTOPPABLE.get(picture.format or "", 1)
            if width * height > most:
                share = "" if most == max_pixels else f" for {picture.format}, {most}"
                raise errors.ImageBomb(
                    f"the image has {width}×{height} pixels, more than max_image_pixels"
                    f" = {max_pixels} allows{share}"
                )
            with attempt.room_for(_room_needed(picture, smallest)):
                picture.load()
                turn = _turn(picture)
                rgb = colours.to_rgb(picture, smallest)
                return rgb if turn is None else rgb.transpose(turn)
    except errors.ImageError:
        raise
    except UnidentifiedImageError:
        raise errors.NotAnImage(
            "the data is not a picture in a format that is read here",
            hint=f"Formats: {', '.join(FORMATS)}.",
        ) from None
    except Image.DecompressionBombError as error:
        raise errors.ImageBomb(
            f"the image has more pixels than max_image_pixels = {max_pixels}"
        ) from error
    except (MemoryError, RecursionError):
        raise errors.ImageBomb("the image needs more memory than there is") from None
    except Exception as error:
        # Decoders fed with hostile data raise nearly anything (OSError, SyntaxError, ValueError,
        # struct.error, IndexError …): whatever it is, this picture is at fault and no other.
        if attempt.overdue():
            raise attempt.timeout() from error
        message = str(error) or type(error).__name__
        if "truncated" in message or "broken data stream" in message or isinstance(error, EOFError):
            raise errors.ImageTruncated(f"the image data ends early: {message}") from error
        raise errors.NotAnImage(f"the image data is damaged: {message}") from error


def _room_needed(picture: ImageFile, smallest: int | None) -> int:
    """Has a JPEG decoded at the scale that is needed; the pixels that will then be in memory."""
    whole = picture.width * picture.height
    if isinstance(picture, JpegImageFile):
        picture.decodermaxblock = BLOCK
        if smallest is not None:
            picture.draft(None, (smallest, smallest))
        if "progressive" not in picture.info:  # else all of it is collected before any is scaled
            return picture.width * picture.height
    return whole * COPIES.get(picture.format or "", 1) if whole > LARGE else whole


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What brings it upright, by its EXIF data; None also where that cannot be read."""
    try:
        return TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None
