"""From a path or bytes to a checked RGB picture: limits, orientation, and errors by their class."""

from __future__ import annotations

import warnings

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from visrec_db import errors
from visrec_db.pictures import colours
from visrec_db.pictures.files import Content, Policy, read_file
from visrec_db.pictures.limits import LARGE, Attempt, Data

Source = str | bytes | bytearray | memoryview
"""An image as a row holds it: a path, or the encoded picture itself."""

FORMATS = (
    "AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""What is decoded. EPS (runs Ghostscript) and the long tail of formats stay out."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""

MAX_PIXELS_DIVISOR = {"JPEG2000": 4}
"""These decoders stop all other threads of the process: they get so many times fewer pixels."""

DECODER_COPIES = {"AVIF": 2, "JPEG2000": 4, "WEBP": 4}
"""What these formats' decoders hold at once, as a multiple of the decoded picture."""

JPEG_BLOCK = 8192
"""Bytes of a JPEG that are decoded between two looks at the clock: a few can stand for much."""


def open_picture(
    source: Source,
    policy: Policy,
    smallest: int | None = None,
    attempt: Attempt | None = None,
) -> Image.Image:
    """Reads and decodes ``source``: see ``read`` and ``decode``."""
    return decode(read(source, policy).data, policy, smallest, attempt)


def read(source: Source, policy: Policy) -> Content:
    """Returns the encoded picture; ``ImageError`` where it cannot be read or is too large."""
    if isinstance(source, str):
        return read_file(source, policy)
    if len(source) > policy.max_bytes:
        raise errors.ImageTooLarge(
            f"the image has {len(source)} bytes, more than max_image_bytes = {policy.max_bytes}"
        )
    return Content(bytes(source))


def decode(
    data: bytes, policy: Policy, smallest: int | None = None, attempt: Attempt | None = None
) -> Image.Image:
    """Returns the picture in mode RGB, upright, transparency on white.

    Animations give their first frame. Where the format can be decoded at a half, a quarter or an
    eighth of its scale (JPEG), the smallest is taken that leaves both sides ``smallest`` pixels
    long, and a large picture of any format is shrunk as far; None: always the full scale.
    ``attempt`` is for who watches its time. Raises an ``ImageError`` that says what is wrong.
    """
    attempt = attempt or Attempt(policy.max_seconds)
    max_pixels = policy.max_pixels
    if not data:
        raise errors.NotAnImage("the image is empty (0 bytes)")
    Image.MAX_IMAGE_PIXELS = max_pixels  # for the decoders that check sizes of their own
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # remarks on flaws that do not matter
            Image.open(Data(data, attempt), formats=FORMATS) as picture,
        ):
            width, height = picture.size
            most = max_pixels // MAX_PIXELS_DIVISOR.get(picture.format or "", 1)
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
            "the data is not a picture in a supported format",
            hint=f"Supported formats are {', '.join(FORMATS)}.",
        ) from None
    except Image.DecompressionBombError as error:
        raise errors.ImageBomb(
            f"the image has more pixels than max_image_pixels = {max_pixels}"
        ) from error
    except (MemoryError, RecursionError):
        raise errors.ImageBomb("decoding the image needs too much memory") from None
    except Exception as error:
        # Decoders fed with hostile data raise nearly anything (OSError, SyntaxError, ValueError,
        # struct.error, IndexError …): whatever it is, this picture is at fault and no other.
        if attempt.overdue():
            raise attempt.timeout() from error
        message = str(error) or type(error).__name__
        if "truncated" in message or "broken data stream" in message or isinstance(error, EOFError):
            raise errors.ImageTruncated(f"the image data ends early: {message}") from error
        if message.startswith("invalid literal for int()"):  # Python's words, for PPM in plain text
            message = "a number cannot be read"
        raise errors.NotAnImage(f"the image data is damaged: {message}") from error


def _room_needed(picture: ImageFile, smallest: int | None) -> int:
    """Sets the scale at which a JPEG is decoded; returns the pixels that will be in memory."""
    whole = picture.width * picture.height
    if isinstance(picture, JpegImageFile):
        picture.decodermaxblock = JPEG_BLOCK
        if smallest is not None:
            picture.draft(None, (smallest, smallest))
        if "progressive" not in picture.info:  # else all of it is collected before any is scaled
            return picture.width * picture.height
    return whole * DECODER_COPIES.get(picture.format or "", 1) if whole > LARGE else whole


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """Returns what brings it upright by its EXIF data; None also where that cannot be read."""
    try:
        return UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None
