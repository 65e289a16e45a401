"""Pictures on which forms of a model are compared: made-up ones, and real ones where there are."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from visrec_db import errors
from visrec_db.pictures import images
from visrec_db.pictures.files import Policy

NUMBER = 192

FEWEST = 32
"""Photographs that say something about neighbours."""

LOOKED_AT = 20_000
"""Files under the roots among which photographs are sought."""

SECONDS = 30.0
"""For finding and decoding them; what is there then is used."""

SUFFIXES = (".jpg", ".jpeg", ".webp", ".png")


def patches(number: int = 12) -> Sequence[Image.Image]:
    """Makes patches of colour from coarse to fine: unlike each other for an untrained model."""
    random = np.random.default_rng(5)
    pictures = []
    for place in range(number):
        side = 2 + place * 3
        coarse = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(coarse).resize((320, 256), Image.Resampling.BICUBIC))
    return pictures


def like_photographs(number: int = NUMBER) -> Sequence[Image.Image]:
    """Draws discs of all sizes over each other (Lee, Mumford and Huang 2001), more or less faded.

    A ViT-B/32's vectors of them lie about their mean as those of photographs do, and int8 shows in
    both alike: mean cosines of 0.9985 and 0.9984 with float32.
    """
    random = np.random.default_rng(5)
    white = Image.new("RGB", (224, 224), (235, 235, 235))
    pictures = []
    for _ in range(number):
        palette = random.integers(0, 256, (6, 3))
        picture = Image.new("RGB", white.size, tuple(palette[0]))
        draw = ImageDraw.Draw(picture)
        for _ in range(random.integers(3, 150)):
            x, y = random.uniform(0, 224, 2)
            radius = min(4 * (random.pareto(2) + 1), 120)
            colour = random.choice(palette) + random.normal(0, 20, 3)
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                tuple(int(c) for c in colour.clip(0, 255)),
            )
        pictures.append(Image.blend(picture, white, random.uniform(0, 0.7)))
    return pictures


def sets(
    roots: Sequence[str], prepare: Callable[[Image.Image], Any], smallest: int | None
) -> list[NDArray[Any]]:
    """Returns prepared pictures: made-up ones, and real ones where there are enough."""
    found = [np.stack([prepare(picture) for picture in like_photographs()])]
    real = photographs(roots, prepare, smallest)
    if len(real) >= FEWEST:
        found.append(np.stack(real))
    return found


def photographs(
    roots: Sequence[str], prepare: Callable[[Image.Image], Any], smallest: int | None
) -> list[Any]:
    """Returns what ``prepare`` makes of up to ``NUMBER`` real pictures under the roots.

    Whatever cannot be decoded is left out; a decoder that hangs costs ``SECONDS``.
    """
    found: list[Any] = []
    until = time.monotonic() + SECONDS
    policy = Policy(tuple(roots), max_bytes=32 << 20, max_pixels=50_000_000)

    def collect() -> None:
        for path in _spread(list(_files(roots, until))):
            if time.monotonic() > until:
                return
            try:
                found.append(prepare(images.open_picture(path, policy, smallest)))
            except errors.VisrecError:
                continue

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[:NUMBER]


def _files(roots: Sequence[str], until: float) -> Iterator[str]:
    seen = 0
    for root in roots:
        for directory, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                seen += 1
                if seen > LOOKED_AT or time.monotonic() > until:
                    return
                if name.lower().endswith(SUFFIXES):
                    yield str(Path(directory) / name)


def _spread(paths: list[str]) -> list[str]:
    """Returns ``NUMBER`` of them at equal distances: neighbours in a folder are often alike."""
    count = min(NUMBER, len(paths))
    return [paths[place * len(paths) // count] for place in range(count)]
