"""Damaged pictures: drawn ones with some of their bits turned over."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import draw_pictures


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """What was done, and the picture. The same seed makes the same ones again."""
    rng = random.Random(seed)
    originals = []
    for category in draw_pictures.CATEGORIES:
        stream = io.BytesIO()
        draw_pictures.draw(category, rng).save(stream, "JPEG", quality=85)
        originals.append(stream.getvalue())
    for number in range(count):
        data = bytearray(rng.choice(originals))
        bits = rng.choice([1, 4, 30])
        for _ in range(bits):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield f"{number}: {bits} bits", bytes(data)
