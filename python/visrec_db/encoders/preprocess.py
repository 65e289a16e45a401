"""From an RGB picture to the model's input by Pillow and NumPy alone, as transformers does it.

CLIP and its kin shrink a picture until its shorter side fits, cut the middle out, scale the
numbers and normalise them. Done here without the library it takes half the time, needs neither
torch nor transformers, and can run in threads: Pillow lets go of the interpreter while it works.

Only the middle is ever computed, so what the cut throws away costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""Shape (height, width, 3)."""

_REACH = {
    Image.Resampling.NEAREST: 0.5,
    Image.Resampling.BOX: 0.5,
    Image.Resampling.BILINEAR: 1.0,
    Image.Resampling.HAMMING: 1.0,
    Image.Resampling.BICUBIC: 2.0,
    Image.Resampling.LANCZOS: 3.0,
}
"""Pixels to each side that a filter looks at."""


@dataclass(frozen=True)
class Settings:
    """How a model wants its pictures.

    ``resize`` is the length of the shorter side, or a fixed (height, width); ``crop`` the
    (height, width) of the middle that is kept; ``resample`` Pillow's number of the filter. A
    pixel value ``p`` becomes ``(p * scale - mean) / std``, channel by channel.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what ``prepare`` returns."""
        if self.crop is not None:
            return self.crop
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    @property
    def smallest(self) -> int:
        """What the shorter side of a picture decoded at reduced scale must keep, in pixels.

        Twice what it is shrunk to: a decoder's coarse scaling below that shows in the vectors.
        """
        return 2 * (self.resize if isinstance(self.resize, int) else max(self.resize))

    def prepare(self, picture: Image.Image) -> Pixels:
        """Resizes and crops an RGB picture.

        Of the library's own numbers fewer than one in a hundred differ, and by one level of 256:
        the cut's place is rounded on its way through Pillow. In upright pictures more than twice
        as long as wide it may be more and by a few levels, since Pillow shrinks those from top to
        bottom first.
        """
        width, height = picture.size
        if isinstance(self.resize, int):
            shorter = min(width, height)
            resized = (
                int(self.resize * width / shorter) if width > height else self.resize,
                int(self.resize * height / shorter) if height > width else self.resize,
            )
        else:
            resized = (self.resize[1], self.resize[0])
        kept = (self.size[1], self.size[0])
        left, right = _span(width, resized[0], kept[0])
        top, bottom = _span(height, resized[1], kept[1])
        filter_ = Image.Resampling(self.resample)
        if kept[1] < resized[1]:
            # From left to right and then from top to bottom, as Pillow itself would; asked to do
            # both at once it might turn the order round for a box, and round off differently.
            reach = _REACH[filter_] * max(1.0, height / resized[1]) + 1
            first, last = max(0, floor(top - reach)), min(height, ceil(bottom + reach))
            rows = picture.crop((0, first, width, last))
            picture = rows.resize(
                (kept[0], last - first), filter_, box=(left, 0, right, last - first)
            )
            left, top, right, bottom = 0, top - first, kept[0], bottom - first
        return np.asarray(picture.resize(kept, filter_, box=(left, top, right, bottom)))

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns pixels of any shape (…, 3) as the numbers the model was trained on."""
        std = np.asarray(self.std)
        factor = (self.scale / std).astype(np.float32)
        numbers: NDArray[np.float32] = pixels * factor - (np.asarray(self.mean) / std).astype(
            np.float32
        )
        return numbers

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Settings:
        """Makes them of the fields as JSON keeps them; TypeError where they are not its own."""
        for name, value in fields.items():
            fields[name] = tuple(value) if isinstance(value, list) else value
        return cls(**fields)


def settings_of(
    options: Mapping[str, Any], reference: Callable[[Image.Image], NDArray[np.float32]]
) -> Settings | None:
    """Returns what an image processor of transformers does (``to_dict()``); None if it does more.

    ``reference`` is the processor itself: one picture to an array (3, height, width). Whatever
    the options say, only settings that give its numbers are returned.
    """
    try:
        settings = _read(options)
        if settings is None or not all(
            _agree(settings, reference, picture) for picture in _probes()
        ):
            return None
    except (KeyError, TypeError, ValueError, IndexError):  # options of another shape
        return None
    return settings


def _span(length: int, resized: int, kept: int) -> tuple[float, float]:
    """Returns where the middle ``kept`` of ``resized`` pixels begins and ends in ``length``."""
    start = (resized - kept) // 2
    end = (start + kept) * length / resized
    return start * length / resized, min(end, length)  # no rounding error beyond the picture


def _read(options: Mapping[str, Any]) -> Settings | None:
    if not (options["do_resize"] and options.get("size")):
        return None
    size = options["size"]
    resize: int | tuple[int, int]
    if set(size) == {"shortest_edge"}:
        resize = int(size["shortest_edge"])
    elif set(size) == {"height", "width"}:
        resize = (int(size["height"]), int(size["width"]))
    else:
        return None
    crop = None
    if options.get("do_center_crop"):
        crop = (int(options["crop_size"]["height"]), int(options["crop_size"]["width"]))
        room = (resize, resize) if isinstance(resize, int) else resize
        if crop[0] > room[0] or crop[1] > room[1]:
            return None  # the library pads
    elif isinstance(resize, int):
        return None  # every picture another shape
    normalise = options.get("do_normalize")
    return Settings(
        resize=resize,
        crop=crop,
        resample=int(options["resample"]),
        scale=float(options["rescale_factor"]) if options.get("do_rescale") else 1.0,
        mean=_three(options["image_mean"]) if normalise else (0.0, 0.0, 0.0),
        std=_three(options["image_std"]) if normalise else (1.0, 1.0, 1.0),
    )


def _three(numbers: Any) -> tuple[float, float, float]:
    red, green, blue = (float(number) for number in numbers)
    return red, green, blue


def _probes() -> list[Image.Image]:
    """Makes pictures in which any other order, size, filter or place of the cut would show."""
    random = np.random.default_rng(11)
    probes = []
    for width, height in ((400, 533), (301, 200), (30, 47), (256, 256)):
        coarse = random.integers(0, 256, (9, 11, 3), dtype=np.uint8)
        probes.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return probes


def _agree(
    settings: Settings,
    reference: Callable[[Image.Image], NDArray[np.float32]],
    picture: Image.Image,
) -> bool:
    expected = np.moveaxis(np.asarray(reference(picture)), 0, -1)
    ours = settings.normalised(settings.prepare(picture))
    if ours.shape != expected.shape:
        return False
    step = settings.scale / min(settings.std)  # what one level of a pixel makes
    difference = np.abs(ours - expected)
    return bool(difference.max() < 1.01 * step and (difference > step / 2).mean() < 0.01)
