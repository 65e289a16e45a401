"""What a picture looks like: a perceptual hash and a few colours.

It is run as a model is, so that pictures are decoded by the encoder's threads, under its limits.
The hash (pHash of ImageHash) knows no colours; the mean colours of 4 × 4 fields are added to it,
since the same thing in another colour is another picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagehash
import numpy as np
from PIL import Image

from visrec_db import errors
from visrec_db.duplicates import HASH_BITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

FIELDS = (4, 4)


class LooksEncoder:
    """An ``Encoder`` whose vectors are looks."""

    dimension = HASH_BITS + 3 * FIELDS[0] * FIELDS[1]
    runtime = "imagehash"
    precision = "f32"
    device = "cpu"
    batch = 16
    smallest = 128

    def prepare(self, picture: Image.Image) -> Vectors:
        bits = imagehash.phash(picture).hash.reshape(-1)
        colours = np.asarray(picture.resize(FIELDS, Image.Resampling.BOX), np.float32)
        return np.concatenate([np.where(bits, 1, -1).astype(np.float32), colours.reshape(-1)])

    def encode_prepared(self, prepared: Sequence[Vectors]) -> Vectors:
        return np.stack(prepared)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:  # noqa: ARG002 - as the others
        raise errors.NoTextTower("a text looks like nothing")
