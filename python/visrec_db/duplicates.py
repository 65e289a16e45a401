"""Whether two pictures are one and the same: by their bytes, or by what they look like.

What a picture looks like comes from ``looks.py``, which runs where models run: there pictures are
decoded under the limits of time and memory. This module does without numpy.
"""

from __future__ import annotations

import hashlib

from visrec_db import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from visrec_db.images import Policy

LOOKS = "looks-1"
"""The fingerprint of the "model" in ``looks.py``."""

HASH_BITS = 64
"""The first so many numbers of a look are the bits of its perceptual hash; the rest are colours."""

MOST_BITS, MOST_COLOUR = 8, 12
"""How far two looks of one picture may differ: in bits, and in any colour (of 255).

Pictures saved again, down to quality 30 and a third of the size, differ by at most 4 and 10. Of
80,000 pairs of photographs, and of 7,000 drawn ones, none is below both limits; 55 of the drawn
ones are below the first: the same shape in another colour.
"""


class Picture:
    """What is known of a row's picture: each None where that cannot be told."""

    def __init__(self, digest: bytes | None = None, look: list[float] | None = None) -> None:
        self.digest = digest
        self.look = look


def kind(first: Picture, second: Picture) -> str:
    """``exact``, ``near`` or ``similar``."""
    if first.digest is not None and first.digest == second.digest:
        return "exact"
    if first.look is not None and second.look is not None and _alike(first.look, second.look):
        return "near"
    return "similar"


def _alike(first: list[float], second: list[float]) -> bool:
    bits = sum(a != b for a, b in zip(first[:HASH_BITS], second[:HASH_BITS], strict=True))
    return bits <= MOST_BITS and all(
        abs(a - b) <= MOST_COLOUR
        for a, b in zip(first[HASH_BITS:], second[HASH_BITS:], strict=True)
    )


def digest(image: Any, policy: Policy) -> bytes | None:
    """The SHA-256 of an image's bytes; None where its file cannot be read."""
    from visrec_db import images  # noqa: PLC0415 - needs the libraries

    try:
        data = images.read_file(image, policy) if isinstance(image, str) else bytes(image)
    except errors.ImageError:
        return None
    return hashlib.sha256(data).digest()


def pictures(
    sources: list[Any],
    looks: list[str | errors.ImageError],
    policy: Policy,
    checkpoint: Callable[[], None],
) -> list[Picture]:
    """What is known of each picture; its look is a vector as text, or why there is none."""
    found = []
    for source, look in zip(sources, looks, strict=True):
        checkpoint()
        numbers = [float(n) for n in look[1:-1].split(",")] if isinstance(look, str) else None
        found.append(Picture(digest(source, policy), numbers))
    return found
