"""A decoded picture of any mode as RGB, without a second one of its size where it is large.

Transparency is put on white, deep greyscale scaled to 8 bits. A large picture is taken tile by
tile, and shrunk on the way where the model needs less of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visrec_db.pictures.limits import LARGE

TILE = 1024  # pixels to a side

MAX_SHRINKING = 32


def to_rgb(picture: Image.Image, smallest: int | None) -> Image.Image:
    """Returns the picture in mode RGB.

    One of more than ``LARGE`` pixels is shrunk by a whole number that leaves both sides
    ``smallest`` pixels long, where that is given.
    """
    width, height = picture.size
    if width * height <= LARGE:
        return _tile_to_rgb(picture, _is_deep(picture))
    factor = 1 if smallest is None else max(1, min(MAX_SHRINKING, min(width, height) // smallest))
    if factor == 1 and picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    deep = _is_deep(picture)
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for box in _tiles(picture, max(1, TILE // factor) * factor):
        tile = _tile_to_rgb(picture.crop(box), deep)
        result.paste(tile.reduce(factor), (box[0] // factor, box[1] // factor))
    return result


def _tiles(picture: Image.Image, side: int) -> Iterator[tuple[int, int, int, int]]:
    width, height = picture.size
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield left, top, min(left + side, width), min(top + side, height)


def _tile_to_rgb(tile: Image.Image, deep: bool) -> Image.Image:
    if _is_number(tile):
        tile = _grey_to_8_bits(tile, deep)
    if tile.has_transparency_data:
        rgba = tile.convert("RGBA")
        tile = Image.new("RGBA", rgba.size, "white")
        tile.alpha_composite(rgba)
    return tile.convert("RGB")


def _is_number(picture: Image.Image) -> bool:
    """Whether each pixel is one number of more than eight bits."""
    return picture.mode.startswith("I") or picture.mode == "F"


def _is_deep(picture: Image.Image) -> bool:
    """Whether these numbers go beyond 255: the whole picture's decide, not a tile's."""
    if not _is_number(picture):
        return False
    return picture.mode.startswith("I;16") or any(
        float(_finite(picture.crop(box)).max(initial=0)) > 255 for box in _tiles(picture, TILE)
    )


def _finite(picture: Image.Image) -> NDArray[np.float32]:
    values = np.asarray(picture, dtype=np.float32)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _grey_to_8_bits(picture: Image.Image, deep: bool) -> Image.Image:
    """16 bits map 65535 to 255; 32-bit integers and floats that hold 8 bits stay as they are."""
    values = _finite(picture)
    scaled = values / 257 if deep else values
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
