"""Single requests: what is in no attached table, the encoder process, and facts about images."""

from __future__ import annotations

import json

from visrec_db import errors
from visrec_db.backend import client, session
from visrec_db.backend.in_process import Model
from visrec_db.results import Look
from visrec_db.service import protocol

BATCH_SIZE = 16
"""Rows of which the images are compared together: they may hold them."""

TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    from collections.abc import Sequence
    from typing import Any

    from visrec_db.backend.session import Plpy


@session.entry_point
def embed(
    plpy: Plpy, model: str, path: str | None, image: bytes | None, query: str | None
) -> dict[str, Any]:
    """Returns the ``embedding`` of an image by its path or bytes, or of a text."""
    try:
        found, settings = session.registered(plpy, model)
        embedder = session.connect(plpy, found, settings, bulk=False)
        if query is not None:
            return {"embedding": embedder.embed_text(query)}
        if path is not None:
            source: Any = session.checked_path(path)
        else:
            source = session.checked_bytes(image or b"", protocol.policy(settings)["max_bytes"])
        [[result]] = session.with_errors([source], embedder.embed_images)
        if isinstance(result, errors.ImageError):
            raise result
        return {"embedding": result.vector}
    except errors.VisrecError as error:
        of_image = isinstance(error, errors.ImageError)
        return {"error": session.described(error, path if of_image else None)}


@session.entry_point
def inspect_model(plpy: Plpy, name: str, directory: str) -> dict[str, Any]:
    """Loads the model in ``directory``; returns its ``fingerprint`` and ``dimension``."""
    settings = session.settings_of(plpy)
    return session.connect(plpy, Model(name, directory, None), settings, bulk=False).inspect()


@session.entry_point
def encoder_status(plpy: Plpy) -> dict[str, Any] | None:
    """Returns what the encoder process says of itself; None where none runs."""
    return client.control("status", session.checkpoint_of(plpy))


@session.entry_point
def encoder_stop(plpy: Plpy) -> dict[str, Any]:
    """Ends the encoder process, ``stopped`` if one ran. The next call starts another."""
    return {"stopped": client.stop(session.checkpoint_of(plpy))}


@session.entry_point
def encoder_warm(plpy: Plpy, model: str) -> dict[str, Any]:
    """Has the encoder process load a model; returns its ``dimension``."""
    found, settings = session.registered(plpy, model)
    return {"dimension": session.connect(plpy, found, settings, bulk=False).dimension()}


@session.entry_point
def duplicate_kinds(
    plpy: Plpy, names: str, first: Sequence[str], second: Sequence[str]
) -> dict[str, Any]:
    """Returns ``kinds``: for each pair of rows by their keys ``exact``, ``near`` or ``similar``.

    An image that cannot be read makes its pairs similar and harms no other. Only the kinds leave
    this function, no digest.
    """
    from visrec_db.backend import duplicates  # noqa: PLC0415 - only here

    [terms] = session.TERMS.run(plpy, names)
    settings = json.loads(terms["settings"])
    max_bytes = protocol.policy(settings)["max_bytes"]
    embedder = session.connect(plpy, None, settings, bulk=True)
    keys = sorted({*first, *second})
    looks: dict[str, Look] = {}
    image_rows = session.of_table(terms["image_rows"], "int8", "text[]")
    for start in range(0, len(keys), BATCH_SIZE):
        some = keys[start : start + BATCH_SIZE]
        rows = image_rows.run(plpy, max_bytes, some)
        images = [session.image_of(row, max_bytes) for row in rows]
        results = [r for found in session.with_errors(images, embedder.looks) for r in found]
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Look):
                looks[row["id"]] = result
    pairs = zip(first, second, strict=True)
    return {"kinds": [duplicates.kind(looks.get(a), looks.get(b)) for a, b in pairs]}


@session.entry_point
def principal_components(plpy: Plpy, sample: bytes, dimension: int, dims: int) -> dict[str, Any]:
    """Returns the first ``dims`` principal ``components`` of vectors, and what they keep.

    ``sample``: vectors of ``dimension`` numbers, as big-endian float32 on end.
    """
    protocol.check_sample(len(sample), dimension, dims)
    embedder = session.connect(plpy, None, session.settings_of(plpy), bulk=True)
    return embedder.components(sample, dimension, dims)


@session.entry_point
def file_stamps(plpy: Plpy, paths: Sequence[str | None]) -> dict[str, Any]:
    """Returns ``stamps``: for each path that of the file as it is now; None where it has none."""
    asked = [p for p in {*paths} if p is not None and isinstance(session.checked_path(p), str)]
    stamps: dict[str | None, int | None] = {}
    if asked:
        embedder = session.connect(plpy, None, session.settings_of(plpy), bulk=True)
        stamps.update(zip(asked, embedder.file_stamps(asked), strict=True))
    return {"stamps": [stamps.get(path) for path in paths]}
