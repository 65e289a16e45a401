"""What tells whether two images are one: the bytes' digest, a perceptual hash and a few colours.

The hash (pHash of ImageHash) knows no colours; the mean colours of 4 × 4 fields are added to it,
since the same thing in another colour is another picture.
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from visrec_db import errors
from visrec_db.pictures import images
from visrec_db.pictures.files import Content, Policy
from visrec_db.pictures.limits import Attempt
from visrec_db.results import Look

FIELDS = (4, 4)
SMALLEST = 128
"""Pixels that the shorter side of a picture keeps when it is decoded."""


def look(content: Content, policy: Policy, attempt: Attempt | None = None) -> Look:
    """Returns the image's look: only its digest where it cannot be decoded."""
    digest = hashlib.sha256(content.data).hexdigest()
    try:
        picture = images.decode(content.data, policy, SMALLEST, attempt)
    except errors.ImageError:
        return Look(digest, None, None)
    return Look(digest, perceptual_hash(picture), mean_colours(picture))


def perceptual_hash(picture: Image.Image) -> int:
    """Returns the 64 bits of ImageHash's pHash as one number."""
    try:
        import imagehash  # noqa: PLC0415 - half a second, only for visrec.duplicates
    except ImportError as error:
        raise errors.EncoderUnavailable(
            f"a library that compares pictures is missing: {error}",
            hint="Bring the libraries up to date on the server: make venv.",
        ) from error
    return int(str(imagehash.phash(picture)), 16)


def mean_colours(picture: Image.Image) -> list[int]:
    """Returns red, green and blue (0 to 255) of each field, row by row."""
    fields = picture.resize(FIELDS, Image.Resampling.BOX)
    colours: list[int] = np.asarray(fields).reshape(-1).tolist()
    return colours
