"""The encoder inside this very process: what a backend uses where no shared one serves it.

It keeps each loaded model for the rest of the session. The shared encoder's client offers the
same two methods.
"""

from __future__ import annotations

import os.path
import sys

from visrec_db import errors, protocol
from visrec_db.client import HOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from visrec_db.encoder import Encoder
    from visrec_db.images import Policy

_encoders: dict[tuple[str | None, str], Encoder] = {}


class Model:
    """A registered model (``visrec.model``); ``directory`` is None for ``pixels``."""

    def __init__(self, name: str, directory: str | None, fingerprint: str) -> None:
        self.name = name
        self.directory = directory
        self.fingerprint = fingerprint


class InProcess:
    """Embeds with one model under one policy; raises ``EncoderError`` where it cannot."""

    def __init__(
        self, model: Model, settings: dict[str, str], checkpoint: Callable[[], None]
    ) -> None:
        self._model = model
        self._settings = settings
        self._checkpoint = checkpoint

    def embed_images(
        self,
        sources: Sequence[Any],
        ahead: Sequence[str] = (),  # noqa: ARG002 - only another process can work ahead
        continues: bool = False,  # noqa: ARG002
    ) -> Iterator[list[str | errors.ImageError]]:
        """Each image's vector as text, or its error: consecutive slices, in order."""
        add_libraries()
        from visrec_db import encoder  # noqa: PLC0415 - needs the libraries

        allowed = policy(self._settings)
        loaded = self._encoder()
        for start in range(0, len(sources), loaded.batch):
            some = sources[start : start + loaded.batch]
            yield encoder.embed_images(loaded, some, allowed, self._checkpoint)

    def embed_text(self, query: str) -> str:
        """The text's vector as text."""
        add_libraries()
        from visrec_db import encoder  # noqa: PLC0415 - needs the libraries

        return encoder.as_text(self._encoder().encode_texts([query])[0])

    def dimension(self) -> int:
        """How many numbers the model's vectors have; loads it."""
        add_libraries()
        return self._encoder().dimension

    def _encoder(self) -> Encoder:
        from visrec_db import encoder  # noqa: PLC0415 - needs the libraries

        key = (self._model.directory, self._model.fingerprint)
        if key not in _encoders:
            _encoders[key] = encoder.load(*key)
        return _encoders[key]


def policy(settings: dict[str, str]) -> Policy:
    """What the administrator's settings allow."""
    add_libraries()
    from visrec_db import images  # noqa: PLC0415 - needs the libraries

    allowed = protocol.policy(settings)
    return images.Policy(**{**allowed, "roots": tuple(allowed["roots"])})


def add_libraries() -> None:
    """Put the virtual environment's libraries first on the module path.

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
