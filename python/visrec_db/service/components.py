"""Vectors of fewer numbers: the principal components of a table's vectors, and what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visrec_db import errors
from visrec_db.service import protocol

Vectors = NDArray[np.float32]

QUERIES, NEIGHBOURS, CANDIDATES = 100, 10, 100
"""The loss is measured for so many rows; a search for ten has so many candidates."""


def main() -> None:
    """Runs ``python -c … DIMENSION DIMS BYTES``: a sample on standard input, JSON on the output.

    Ends with the encoder process, whose end closes the input: left alone where the postmaster is
    process 1, a child that is killed would be taken for a crashed backend.
    """
    dimension, dims, size = map(int, sys.argv[1:])
    os.nice(10)
    sample = sys.stdin.buffer.read(size)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        answer = compute(sample, dimension, dims)
    except errors.VisrecError as error:
        answer = {"error": error.as_dict()}
    sys.stdout.write(json.dumps(answer))


def _exit_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


async def run_child(sample: bytes, dimension: int, dims: int) -> dict[str, Any]:
    """Returns what ``compute`` does, or its ``error``; the child is killed with the task.

    A process of its own, so that other sessions' images keep this one's threads and processors,
    and the memory is gone afterwards.
    """
    script = (
        f"import sys; sys.path.insert(0, {str(Path(protocol.PACKAGE).parent)!r});"
        " from visrec_db.service import components; components.main()"
    )
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", script),
        *(str(number) for number in (dimension, dims, len(sample))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
    )
    if child.stdin is None or child.stdout is None:
        raise AssertionError("pipes were asked for")
    try:
        child.stdin.write(sample)
        with contextlib.suppress(ConnectionError):
            await child.stdin.drain()
        answer = await child.stdout.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise errors.EncoderUnavailable(
            "computing the principal components failed",
            hint=f"See {protocol.LOG} in the data directory.",
        ) from None
    return found


def compute(
    sample: bytes, dimension: int, dims: int, checkpoint: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Returns the components as pgvector's texts, and what they keep of variance and neighbours.

    ``sample``: vectors of ``dimension`` numbers, as big-endian float32 on end. ``checkpoint`` is
    called between steps, and may raise to stop the work.
    """
    protocol.check_sample(len(sample), dimension, dims)
    held = np.frombuffer(sample, ">f4").reshape(-1, dimension).astype(np.float32)
    if not np.isfinite(held).all():
        raise errors.InvalidRequest("a vector of the sample has a number that is not finite")
    checkpoint()
    found, variance = components(held, dims)
    neighbours, recall = loss(held, found, checkpoint)
    form = "[" + ",".join(["%.9g"] * dimension) + "]"
    return {
        "components": [form % tuple(row) for row in found.tolist()],
        "variance": round(variance, 6),
        "neighbours": round(neighbours, 6),
        "recall": round(recall, 6),
    }


def components(vectors: Vectors, dims: int) -> tuple[Vectors, float]:
    """Returns the ``dims`` first principal components, and the share of the variance they keep.

    ``vectors``: (rows, dimension). They are (dims, dimension), orthonormal rows: the eigenvectors
    of the covariance matrix (Jolliffe, Principal Component Analysis, 2002, section 2.1). The mean
    is not needed afterwards: between projected vectors, distances do not depend on it.
    """
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    values, columns = np.linalg.eigh(centred.T @ centred)
    found = columns[:, ::-1][:, :dims].T
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    found = found * np.sign(largest)  # an eigenvector's sign is arbitrary: the same each time
    total = values.sum()
    return found.astype(np.float32), float(values[::-1][:dims].sum() / total) if total > 0 else 1.0


def loss(
    vectors: Vectors, found: Vectors, checkpoint: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Returns two shares of the ten nearest rows by cosine.

    The first: those that the components leave among the ten nearest; the second: among the 100
    nearest, which a search compares by the vectors themselves.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    reduced = vectors @ found.T
    squares = (reduced * reduced).sum(axis=1)
    hits = np.zeros(2)
    asked = range(min(QUERIES, len(vectors)))
    for row in asked:
        checkpoint()
        cosines = unit @ unit[row]
        distances = squares - 2 * (reduced @ reduced[row])
        cosines[row], distances[row] = -np.inf, np.inf
        wanted = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
        order = np.argsort(distances, kind="stable")
        hits += [np.isin(wanted, order[:count]).mean() for count in (NEIGHBOURS, CANDIDATES)]
    return float(hits[0] / len(asked)), float(hits[1] / len(asked))
