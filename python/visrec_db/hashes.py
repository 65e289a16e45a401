"""What tells two pictures to be the same: of their bytes, and of how they look."""

from __future__ import annotations

import hashlib

import imagehash

from visrec_db import errors, images

SMALLEST = 128
"""Pixels that a side keeps before it is hashed: the hash looks at 32."""


def hashes(source: images.Source, policy: images.Policy) -> tuple[str | None, int | None]:
    """SHA-256 of a picture's bytes as hexadecimal digits, and its perceptual hash of 64 bits.

    The second is the signs of the lowest frequencies (pHash, by ImageHash), as a signed integer;
    None for a picture that cannot be decoded. Both None for a file that cannot be read.
    """
    try:
        data = images.read_file(source, policy) if isinstance(source, str) else bytes(source)
    except errors.ImageError:
        return None, None
    digest = hashlib.sha256(data).hexdigest()
    try:
        picture = images.open_picture(data, policy, SMALLEST)
    except errors.ImageError:
        return digest, None
    bits = int(str(imagehash.phash(picture)), 16)
    return digest, bits - (1 << 64) if bits >> 63 else bits
