"""Are they the same vectors? Against transformers' own CLIP in fp32, on the same files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.database import Connection
from tests import tiny_clip
from visrec_db.encoders import encoder
from visrec_db.pictures import images
from visrec_db.pictures.files import Policy

Vectors = NDArray[np.float32]
BATCH = 8


def reference(model: Path, files: Sequence[Path]) -> Vectors:
    """CLIPModel and CLIPImageProcessor, as their documentation uses them."""
    import torch  # noqa: PLC0415 - seconds
    from transformers import CLIPImageProcessor, CLIPModel  # noqa: PLC0415

    clip = CLIPModel.from_pretrained(model / tiny_clip.FOLDER).eval()
    processor = CLIPImageProcessor.from_pretrained(model / tiny_clip.FOLDER)
    rows = []
    for start in range(0, len(files), BATCH):
        pictures = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        inputs = processor(images=pictures, return_tensors="pt")
        with torch.inference_mode():
            features = clip.get_image_features(**inputs)
        rows.append(getattr(features, "pooler_output", features).numpy())
    return _unit(np.concatenate(rows))


def full_decode(model: Path, root: Path, paths: Sequence[str]) -> Vectors:
    """visrec's own road with nothing saved: fp32, every picture decoded at its full scale."""
    from visrec_db.encoders import torch_encoder  # noqa: PLC0415 - seconds

    ours: Any = encoder.load_torch(str(model), torch_encoder.FLOAT32)
    policy = Policy((str(root),), 1 << 30, 1 << 30)
    rows = []
    for start in range(0, len(paths), BATCH):
        some = [images.open_picture(path, policy) for path in paths[start : start + BATCH]]
        rows.append(ours.encode_prepared([ours.prepare(picture) for picture in some]))
    return np.concatenate(rows)


def stored(connection: Connection, paths: Sequence[str]) -> Vectors:
    """The vectors that the rows of ``posts`` have."""
    rows = connection.execute(
        "SELECT p.content_vector::real[] FROM unnest(%s::text[]) WITH ORDINALITY AS w (path, n)"
        " JOIN posts AS p ON p.image_path = w.path ORDER BY n",
        (list(paths),),
    ).fetchall()
    return np.array([row[0] for row in rows], np.float32)


def cosines(ours: Vectors, expected: Vectors) -> NDArray[np.float64]:
    """Picture by picture, after each set's mean vector is taken off it.

    Vectors of an untrained model all point nearly one way, so the plain cosine is always near 1.
    """
    first, second = (
        _unit(vectors.astype(np.float64) - vectors.mean(axis=0)) for vectors in (ours, expected)
    )
    found: NDArray[np.float64] = (first * second).sum(axis=1)
    return found


def _unit(rows: NDArray[Any]) -> NDArray[Any]:
    unit: NDArray[Any] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
