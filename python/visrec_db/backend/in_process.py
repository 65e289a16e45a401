"""The encoder inside this very process: what a backend uses where no shared one serves it.

It keeps each loaded model for the rest of the session. The shared encoder's client offers the
same methods.
"""

from __future__ import annotations

import os
import sys

from visrec_db import errors
from visrec_db.backend.starting import HOME
from visrec_db.results import Embedding, Look
from visrec_db.service import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import Any

    from visrec_db.encoders.encoder import Encoder
    from visrec_db.pictures.files import Policy

_encoders: dict[tuple[str | None, str | None], Encoder] = {}


class Model:
    """A registered model; ``directory`` is None for ``pixels``, ``fingerprint`` where unknown."""

    def __init__(self, name: str, directory: str | None, fingerprint: str | None) -> None:
        self.name = name
        self.directory = directory
        self.fingerprint = fingerprint


class InProcess:
    """Embeds with one model under one policy; raises ``EncoderError`` where it cannot."""

    def __init__(
        self, model: Model | None, settings: dict[str, str], checkpoint: Callable[[], None]
    ) -> None:
        add_libraries()
        self._model = model
        self._policy = _policy(settings)
        self._checkpoint = checkpoint

    def embed_images(
        self,
        sources: Sequence[Any],
        ahead: Sequence[str] = (),  # noqa: ARG002 - only another process can work ahead
        continues: bool = False,  # noqa: ARG002
    ) -> Generator[list[Embedding | errors.ImageError]]:
        """Yields each image's embedding, or its error: consecutive slices, in order."""
        encoder = self._encoder() if sources else None
        size = encoder.batch if encoder else 1
        for start in range(0, len(sources), size):
            if encoder:
                some = sources[start : start + size]
                yield embed_images(encoder, some, self._policy, self._checkpoint)

    def looks(self, sources: Sequence[Any]) -> Generator[list[Look | errors.ImageError]]:
        """Yields what each image looks like, as ``embed_images`` does."""
        from visrec_db.pictures import images, perceptual  # noqa: PLC0415 - needs the libraries

        for source in sources:
            self._checkpoint()
            try:
                yield [perceptual.look(images.read(source, self._policy), self._policy)]
            except errors.ImageError as error:
                yield [error]

    def embed_text(self, query: str) -> str:
        """Returns the text's vector as text."""
        from visrec_db.encoders.encoder import as_text  # noqa: PLC0415 - needs the libraries

        return as_text(self._encoder().encode_texts([query])[0])

    def dimension(self) -> int:
        """Returns how many numbers the model's vectors have; loads it."""
        return self._encoder().dimension

    def inspect(self) -> dict[str, Any]:
        """Returns the model's ``fingerprint`` and ``dimension``, and why it is ``slow``, if so."""
        from visrec_db.models import models  # noqa: PLC0415 - only for register_model

        if self._model is None or self._model.directory is None:
            raise errors.EncoderUnavailable("a model without a directory cannot be registered")
        self._model.fingerprint = models.fingerprint(self._model.directory)
        answer = {"fingerprint": self._model.fingerprint, "dimension": self.dimension()}
        return {**answer, "slow": _slow(self._encoder())}

    def components(self, sample: bytes, dimension: int, dims: int) -> dict[str, Any]:
        """Returns what ``service.components.compute`` does."""
        from visrec_db.service.components import compute  # noqa: PLC0415 - needs the libraries

        return compute(sample, dimension, dims, self._checkpoint)

    def file_stamps(self, paths: Sequence[str]) -> list[int | None]:
        """Returns the stamp of each file as it is now; None where it has none."""
        from visrec_db.pictures import files  # noqa: PLC0415 - only for files in this process

        return files.file_stamps(paths, self._policy)

    def _encoder(self) -> Encoder:
        from pathlib import Path  # noqa: PLC0415 - not for a session that only asks the encoder

        from visrec_db.encoders import encoder  # noqa: PLC0415 - needs the libraries

        if self._model is None:
            raise errors.EncoderUnavailable("no model is named")
        key = (self._model.directory, self._model.fingerprint)
        if key not in _encoders:
            _encoders[key] = encoder.load(*key, Path(protocol.COMPILED))
        return _encoders[key]


def _slow(encoder: Encoder) -> tuple[str, str] | None:
    if encoder.runtime != "torch" or encoder.device != "cpu" or encoder.choice is not None:
        return None
    return (
        "it has no compiled form, which only the shared encoder makes by itself",
        "Run on the server: visrec model compile NAME.",
    )


def embed_images(
    encoder: Encoder, sources: Sequence[Any], policy: Policy, checkpoint: Callable[[], None]
) -> list[Embedding | errors.ImageError]:
    """Returns each image's embedding, or what is wrong with it, in the order of ``sources``.

    A picture is shrunk to the model's input before the next is opened, so that memory holds one
    full-size picture at a time. ``checkpoint`` is called before each picture and pass, and may
    raise to stop the work.
    """
    from visrec_db.encoders.encoder import as_text  # noqa: PLC0415 - needs the libraries
    from visrec_db.pictures import images  # noqa: PLC0415

    results: list[Embedding | errors.ImageError] = []
    prepared: list[Any] = []
    waiting: list[Embedding] = []
    for source in sources:
        checkpoint()
        try:
            content = images.read(source, policy)
            prepared.append(encoder.prepare(images.decode(content.data, policy, encoder.smallest)))
            waiting.append(Embedding("", content.stamp))
            results.append(waiting[-1])
        except errors.ImageError as error:
            results.append(error)
    for start in range(0, len(prepared), encoder.batch):
        checkpoint()
        vectors = encoder.encode_prepared(prepared[start : start + encoder.batch])
        for embedding, vector in zip(waiting[start:], vectors, strict=False):
            embedding.vector = as_text(vector)
    return results


def _policy(settings: dict[str, str]) -> Policy:
    from visrec_db.pictures import files  # noqa: PLC0415 - only for files in this process

    return files.Policy.from_dict(protocol.policy(settings))


def add_libraries() -> None:
    """Puts the virtual environment's libraries first on the module path.

    First, since the distribution's own numpy or Pillow may be older and shadow them.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = os.path.join(HOME, "venv", "lib", version, "site-packages")
    if libraries in sys.path:
        return
    if not os.path.isdir(libraries):
        raise errors.EncoderUnavailable(
            f'the Python libraries are not in "{libraries}"',
            hint="Build them on the server: make venv, with the Python that PostgreSQL embeds.",
        )
    sys.path.insert(0, libraries)
