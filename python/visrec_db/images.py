"""From a path or bytes to a checked RGB picture: limits, roots, orientation.

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

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from visrec_db import errors

Source = str | bytes | bytearray | memoryview
"""An image as a row holds it: a path, or the encoded picture itself."""

FORMATS = (
    "AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""What is decoded. EPS (runs Ghostscript) and the long tail of formats stay out."""

SCALABLE = ("JPEG", "MPO")
"""What can be decoded at a reduced scale, for a fraction of the time and memory."""


@dataclass(frozen=True)
class Policy:
    """What an administrator allows (``visrec.setting``)."""

    roots: tuple[str, ...]
    max_bytes: int
    max_pixels: int


def open_picture(source: Source, policy: Policy, smallest: int | None = None) -> Image.Image:
    """Read and decode ``source``: a picture in mode RGB, upright, transparency on white.

    Animations give their first frame. Where the format can be decoded at a half, a quarter or an
    eighth of its scale (JPEG), the smallest is taken that leaves both sides ``smallest`` pixels
    long; None: always the full scale. Raises an ``ImageError`` that says what is wrong.
    """
    data = read_file(source, policy) if isinstance(source, str) else bytes(source)
    if len(data) > policy.max_bytes:
        raise errors.ImageTooLarge(
            f"the image has {len(data)} bytes, more than max_image_bytes = {policy.max_bytes}"
        )
    return _decode(data, policy.max_pixels, smallest)


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
    status = os.fstat(pinned)
    if not stat.S_ISREG(status.st_mode):
        raise errors.ImageUnreadable("the path is not a regular file")
    if status.st_size > max_bytes:
        raise errors.ImageTooLarge(
            f"the file has {status.st_size} bytes, more than max_image_bytes = {max_bytes}"
        )
    try:
        with open(handle, "rb", buffering=0) as file:  # noqa: PTH123 - a handle, not a path
            return _read_at_most(file, max_bytes + 1)
    except OSError as error:
        raise errors.ImageUnreadable(f"the file cannot be read: {_reason(error)}") from error


def _read_at_most(file: io.FileIO, limit: int) -> bytes:
    """Up to ``limit`` bytes, also of a file that grows while it is read."""
    chunks: list[bytes] = []
    while limit > 0 and (chunk := file.read(min(limit, 1 << 20))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _decode(data: bytes, max_pixels: int, smallest: int | None) -> Image.Image:
    if not data:
        raise errors.NotAnImage("the image is empty (0 bytes)")
    Image.MAX_IMAGE_PIXELS = max_pixels  # for the decoders that check sizes of their own
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # remarks on flaws that do not matter
            Image.open(io.BytesIO(data), formats=FORMATS) as picture,
        ):
            width, height = picture.size
            if width * height > max_pixels:
                raise errors.ImageBomb(
                    f"the image has {width}×{height} pixels, more than max_image_pixels"
                    f" = {max_pixels}"
                )
            if smallest is not None and picture.format in SCALABLE:
                picture.draft(None, (smallest, smallest))
            picture.load()
            return _to_rgb(_upright(picture))
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
        message = str(error) or type(error).__name__
        if "truncated" in message or "broken data stream" in message or isinstance(error, EOFError):
            raise errors.ImageTruncated(f"the image data ends early: {message}") from error
        raise errors.NotAnImage(f"the image data is damaged: {message}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """EXIF orientation obeyed; with EXIF data that cannot be read, as stored, like browsers do."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency on white, deep greyscale scaled to 8 bits."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _deep_grey_to_8_bits(picture)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.new("RGBA", rgba.size, "white")
        picture.alpha_composite(rgba)
    return picture.convert("RGB")


def _deep_grey_to_8_bits(picture: Image.Image) -> Image.Image:
    """16 bits map 65535 to 255; 32-bit integers and floats that hold 8 bits stay as they are."""
    values = np.asarray(picture, dtype=np.float32)
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    sixteen_bits = picture.mode.startswith("I;16") or float(finite.max(initial=0)) > 255
    scaled = finite / 257 if sixteen_bits else finite
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
