"""The encoder inside this very process: what a backend uses where no shared one serves it.

It keeps each loaded model for the rest of the session. The shared encoder's client offers the
same two methods.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visrec_db import errors

if TYPE_CHECKING:
    from visrec_db.encoder import Encoder

HOME = Path(__file__).absolute().parents[2]
"""Where `make install` put the package, and the virtual environment beside it."""

_encoders: dict[tuple[str | None, str], Encoder] = {}


@dataclass(frozen=True)
class Model:
    """A registered model (``visrec.model``); ``directory`` is None for ``pixels``."""

    name: str
    directory: str | None
    fingerprint: str


class InProcess:
    """Embeds with one model under one policy; raises ``EncoderError`` where it cannot."""

    def __init__(
        self, model: Model, settings: dict[str, str], checkpoint: Callable[[], None]
    ) -> None:
        self._model = model
        self._settings = settings
        self._checkpoint = checkpoint

    def embed_images(self, sources: Sequence[Any]) -> Iterator[list[str | errors.ImageError]]:
        """Each image's vector as text, or its error: consecutive slices, in order."""
        add_libraries()
        from visrec_db import encoder, images  # noqa: PLC0415 - needs the libraries

        policy = images.Policy(
            roots=tuple(root for root in self._settings["image_roots"].split(":") if root),
            max_bytes=int(self._settings["max_image_bytes"]),
            max_pixels=int(self._settings["max_image_pixels"]),
        )
        for start in range(0, len(sources), encoder.FORWARD_BATCH):
            some = sources[start : start + encoder.FORWARD_BATCH]
            yield encoder.embed_images(self._encoder(), some, policy, self._checkpoint)

    def embed_text(self, query: str) -> str:
        """The text's vector as text."""
        add_libraries()
        from visrec_db import encoder  # noqa: PLC0415 - needs the libraries

        return encoder.as_text(self._encoder().encode_texts([query])[0])

    def _encoder(self) -> Encoder:
        from visrec_db import encoder  # noqa: PLC0415 - needs the libraries

        key = (self._model.directory, self._model.fingerprint)
        if key not in _encoders:
            _encoders[key] = encoder.load(self._model.directory)
        return _encoders[key]


def add_libraries() -> None:
    """Put the virtual environment's libraries first on the module path.

    First, since the distribution's own numpy or Pillow may be older and shadow them.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = HOME / "venv" / "lib" / version / "site-packages"
    if str(libraries) in sys.path:
        return
    if not libraries.is_dir():
        raise errors.EncoderUnavailable(
            f'the Python libraries are not in "{libraries}"',
            hint="Build them on the server: make venv, with the Python that PostgreSQL embeds.",
        )
    sys.path.insert(0, str(libraries))
