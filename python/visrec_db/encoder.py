"""The model: pictures or texts to unit vectors, behind one small interface.

``load`` gives the encoder of a registered model. Which kind it is shows in its directory:

=====================  ==========================================  ===========================
directory              encoder                                     vectors
=====================  ==========================================  ===========================
none                   ``PixelsEncoder`` (no weights)              512 numbers
with ``modules.json``  ``SentenceTransformerEncoder``              as the model says
with ``config.json``   ``AutoModelEncoder`` (any image model that  as the model says
                       transformers' AutoModel loads)
=====================  ==========================================  ===========================

The two that need torch live in ``torch_encoder``, imported only when one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visrec_db import errors, images, pixels

Vectors = NDArray[np.float32]

FORWARD_BATCH = 16
"""Pictures in one forward pass: more gains little on a CPU, and a cancel waits for the pass."""


class Encoder(Protocol):
    """What every model offers. Vectors are L2-normalised float32, one row per input."""

    dimension: int

    def prepare(self, picture: Image.Image) -> Any:
        """An RGB picture of any size to the model's small fixed-size input."""

    def encode_prepared(self, prepared: Sequence[Any]) -> Vectors:
        """``n`` prepared pictures to an array of shape (n, dimension)."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """``n`` texts to an array of shape (n, dimension); ``NoTextTower`` where there is none."""


class PixelsEncoder:
    """The descriptor that needs no weights: knows colour and shape, no meaning."""

    dimension = pixels.DIMENSION

    def prepare(self, picture: Image.Image) -> Vectors:
        return pixels.describe(picture)

    def encode_prepared(self, prepared: Sequence[Vectors]) -> Vectors:
        return np.stack(prepared)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:  # noqa: ARG002 - as the others
        raise errors.NoTextTower(
            'the model "pixels" embeds pictures only',
            hint="Use a model with a text tower, such as clip-ViT-B-32.",
        )


def load(directory: str | None) -> Encoder:
    """The encoder of the model in ``directory`` (None: ``pixels``). Never touches the network.

    Raises ``EncoderUnavailable`` where the directory holds no model that can be loaded.
    """
    if directory is None:
        return PixelsEncoder()
    in_modules = (Path(directory) / "modules.json").is_file()
    if not in_modules and not (Path(directory) / "config.json").is_file():
        raise errors.EncoderUnavailable(
            f'no model in "{directory}": neither modules.json nor config.json is there',
            hint="Fetch it on the server: visrec model pull NAME.",
        )
    try:
        from visrec_db import torch_encoder  # noqa: PLC0415 - seconds; only where it is needed

        if in_modules:
            return torch_encoder.SentenceTransformerEncoder(directory)
        return torch_encoder.AutoModelEncoder(directory)
    except errors.VisrecError:
        raise
    except Exception as error:  # whatever a damaged model or an incomplete environment raises
        raise errors.EncoderUnavailable(
            f'the model in "{directory}" cannot be loaded: {type(error).__name__}: {error}'
        ) from error


def embed_images(
    encoder: Encoder,
    sources: Sequence[images.Source],
    policy: images.Policy,
    checkpoint: Callable[[], None],
) -> list[str | errors.ImageError]:
    """Each image's vector as text, ready for a column of type vector, or what is wrong with it.

    In the order of ``sources``. A bad image fails alone. A picture is shrunk to the model's input
    before the next is opened, so that memory holds one full-size picture at a time.
    ``checkpoint`` is called before each picture and may raise to stop the work.
    """
    results: list[str | errors.ImageError] = []
    prepared: list[Any] = []
    places: list[int] = []
    for place, source in enumerate(sources):
        checkpoint()
        try:
            prepared.append(encoder.prepare(images.open_picture(source, policy)))
            places.append(place)
            results.append("")
        except errors.ImageError as error:
            results.append(error)
    for start in range(0, len(prepared), FORWARD_BATCH):
        checkpoint()
        vectors = encoder.encode_prepared(prepared[start : start + FORWARD_BATCH])
        for place, vector in zip(places[start:], vectors, strict=False):
            results[place] = as_text(vector)
    return results


def as_text(vector: NDArray[np.float32]) -> str:
    """A vector in pgvector's text form; nine digits bring every float32 back exactly."""
    if not np.isfinite(vector).all() or not vector.any():
        raise errors.EncoderUnavailable("the model gave a vector that is not finite or all zeros")
    return "[" + ",".join(["%.9g" % number for number in vector.tolist()]) + "]"  # noqa: UP031
