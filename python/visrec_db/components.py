"""Vectors of fewer numbers: the principal components of a table's vectors, and what is lost.

It is run as a model is, with a sample of vectors for a text: see ``reduction.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from visrec_db import errors
from visrec_db.reduction import parse_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

    Vectors = NDArray[np.float32]

QUERIES, NEIGHBOURS, CANDIDATES = 100, 10, 100
"""The loss is measured for so many rows; a search for ten has so many candidates."""


class ComponentsEncoder:
    """An ``Encoder`` whose texts are requests: what is lost, and the components, as one vector."""

    dimension = 1
    runtime = "numpy"
    precision = "f64"
    device = "cpu"
    batch = smallest = 1

    def prepare(self, picture: Image.Image) -> Vectors:
        raise NotImplementedError

    def encode_prepared(self, prepared: Sequence[Vectors]) -> Vectors:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return np.stack([_answer(text) for text in texts])


def _answer(text: str) -> Vectors:
    sample, dimension, dims = parse_request(text)
    held = np.frombuffer(sample, ">f4").reshape(-1, dimension).astype(np.float32)
    if not np.isfinite(held).all():
        raise errors.EncoderUnavailable("a vector has a number that is not finite")
    found, share = components(held, dims)
    return np.concatenate([[share, *loss(held, found)], found.reshape(-1)]).astype(np.float32)


def components(vectors: Vectors, dims: int) -> tuple[Vectors, float]:
    """The ``dims`` first principal components, and the share of the variance that they keep.

    ``vectors``: (rows, dimension). Returns (dims, dimension), orthonormal rows, by the eigenvectors
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


def loss(vectors: Vectors, found: Vectors) -> tuple[float, float]:
    """Shares of the ten nearest rows by cosine that the components leave among the nearest.

    The first: among their ten nearest; the second: among their 100 nearest, which a search compares
    by the vectors themselves.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    reduced = vectors @ found.T
    squares = (reduced * reduced).sum(axis=1)
    hits = np.zeros(2)
    asked = range(min(QUERIES, len(vectors)))
    for row in asked:
        cosines = unit @ unit[row]
        distances = squares - 2 * (reduced @ reduced[row])
        cosines[row], distances[row] = -np.inf, np.inf
        wanted = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
        order = np.argsort(distances, kind="stable")
        hits += [np.isin(wanted, order[:count]).mean() for count in (NEIGHBOURS, CANDIDATES)]
    return float(hits[0] / len(asked)), float(hits[1] / len(asked))
