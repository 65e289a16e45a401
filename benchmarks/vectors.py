"""Made-up vectors for measuring indexes: of unit length, the same each time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.database import Connection

Vectors = NDArray[np.float32]

BATCH = 5000


def clustered(
    rows: int, dimension: int = 512, centres: int = 1000, noise: float = 0.6, seed: int = 1
) -> Iterator[Vectors]:
    """Batches of unit vectors: row ``n`` is its centre, ``n % centres``, plus noise.

    ``noise`` is the length of what is added to a centre of length 1: with 0.6, two rows of one
    centre have a cosine of 0.74 in the mean, and rows of two centres one of 0.
    """
    random = np.random.default_rng(seed)
    middle = random.standard_normal((centres, dimension), dtype=np.float32)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    for first in range(0, rows, BATCH):
        numbers = np.arange(first, min(first + BATCH, rows))
        added = random.standard_normal((len(numbers), dimension), dtype=np.float32)
        batch = middle[numbers % centres] + added * np.float32(noise / dimension**0.5)
        yield batch / np.linalg.norm(batch, axis=1, keepdims=True)


def nearly_isotropic(rows: int, dimension: int = 512, seed: int = 2) -> Iterator[Vectors]:
    """Batches of unit vectors of which a tenth of the variance is their centre's.

    The hard case for an index: nothing is much nearer than anything else.
    """
    return clustered(rows, dimension, noise=3, seed=seed)


def copies(
    rows: int, dimension: int = 512, each: int = 20, noise: float = 0.1, seed: int = 3
) -> Iterator[Vectors]:
    """Batches of unit vectors: of each picture so many copies, alike but for a little noise."""
    return clustered(rows, dimension, centres=max(rows // each, 1), noise=noise, seed=seed)


def smooth(
    rows: int, dimension: int = 512, inner: int = 24, noise: float = 0.3, seed: int = 1
) -> Iterator[Vectors]:
    """Batches of unit vectors without clusters, near a space of ``inner`` directions, plus noise.

    Pictures' vectors vary in few directions, too. ``noise`` is the length of what is added to
    vectors of length 1. However few rows a filter keeps, each has neighbours of all distances.
    """
    random = np.random.default_rng(seed)
    directions = random.standard_normal((inner, dimension), dtype=np.float32)
    for first in range(0, rows, BATCH):
        count = min(BATCH, rows - first)
        batch = random.standard_normal((count, inner), dtype=np.float32) @ directions
        batch /= np.linalg.norm(batch, axis=1, keepdims=True)
        added = random.standard_normal((count, dimension), dtype=np.float32)
        batch += added * np.float32(noise / dimension**0.5)
        yield batch / np.linalg.norm(batch, axis=1, keepdims=True)


def kinds(rows: int) -> NDArray[np.int64]:
    """A number from 0 to 9999 for each row, scattered over the rows and their centres by primes."""
    return np.arange(1, rows + 1) * 7919 % 10007 % 10000


def fill(connection: Connection, table: str, batches: Iterator[Vectors]) -> int:
    """Copies ``id`` (from 1), ``kind`` (a number from 0 to 9999) and ``content_vector``; how many.

    A row whose vector is given is not embedded, so this works on attached tables, too.
    """
    row = 0
    with connection.cursor() as cursor:
        statement = f"COPY {table} (id, kind, content_vector) FROM STDIN (FORMAT binary)"
        with cursor.copy(statement.encode()) as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for batch in batches:
                lines = []
                numbers = kinds(row + len(batch))[row:]
                for kind, vector in zip(numbers, batch.astype(">f4"), strict=True):
                    row += 1
                    lines.append(_line(row, int(kind), vector.tobytes()))
                copy.write(b"".join(lines))
            copy.write(b"\xff\xff")
    return row


def _line(row: int, kind: int, numbers: bytes) -> bytes:
    return (
        b"\0\3"
        + b"\0\0\0\x08"
        + row.to_bytes(8)
        + b"\0\0\0\x04"
        + kind.to_bytes(4)
        + (len(numbers) + 4).to_bytes(4)
        + (len(numbers) // 4).to_bytes(2)
        + b"\0\0"
        + numbers
    )
