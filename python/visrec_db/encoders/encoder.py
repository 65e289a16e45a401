"""The model: pictures or texts to unit vectors, behind one small interface.

``load`` gives the encoder of a registered model. Which kind it is shows in its directory, and
what runs it in what this machine has:

====================================  =================================================
directory                             encoder
====================================  =================================================
none                                  ``PixelsEncoder`` (no weights)
with a compiled form (``compiled``)   ``OpenVinoEncoder``, on machines without CUDA
with ``modules.json``                 ``SentenceTransformerEncoder``: torch
with ``config.json``                  ``AutoModelEncoder``: torch, any image model that
                                      transformers' AutoModel loads
====================================  =================================================

Those that need torch live in ``torch_encoder``, imported only when one is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visrec_db import errors
from visrec_db.encoders import hardware, pixels
from visrec_db.models import kept, models

if TYPE_CHECKING:
    from visrec_db.encoders.compiled import Choice
    from visrec_db.encoders.torch_encoder import Plan, TorchEncoder

log = logging.getLogger("visrec_db")

Vectors = NDArray[np.float32]


class Encoder(Protocol):
    """What every model offers. Vectors are L2-normalised float32, one row per input.

    ``prepare`` may be called from several threads at once, also beside the other two, and lets
    them run while it works; those are for one thread at a time.
    """

    @property
    def dimension(self) -> int: ...

    @property
    def runtime(self) -> str:
        """What computes: openvino, torch or numpy."""

    @property
    def precision(self) -> str:
        """Of the forward pass: f32, bf16, f16, int8, or int8 with bf16 around it."""

    @property
    def device(self) -> str:
        """cpu or cuda."""

    @property
    def choice(self) -> Choice | None:
        """What was measured on this machine before this way was chosen."""

    @property
    def batch(self) -> int:
        """Pictures in one forward pass: more gain next to nothing, and a cancel waits for it."""

    @property
    def smallest(self) -> int | None:
        """For ``images.open_picture``: what a picture's sides must keep; None: all they have."""

    def prepare(self, picture: Image.Image) -> Any:
        """An RGB picture of any size to the model's small fixed-size input."""

    def encode_prepared(self, prepared: Sequence[Any]) -> Vectors:
        """``n`` prepared pictures to an array of shape (n, dimension)."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """``n`` texts to an array of shape (n, dimension); ``NoTextTower`` where there is none."""


class PixelsEncoder:
    """The descriptor that needs no weights: knows colour and shape, no meaning."""

    dimension = pixels.DIMENSION
    runtime = "numpy"
    precision = "f32"
    device = "cpu"
    choice = None
    batch = 16
    smallest = None

    def prepare(self, picture: Image.Image) -> Vectors:
        return pixels.describe(picture)

    def encode_prepared(self, prepared: Sequence[Vectors]) -> Vectors:
        return np.stack(prepared)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:  # noqa: ARG002 - as the others
        raise errors.NoTextTower(
            'model "pixels" embeds pictures only',
            hint="Use a model with a text tower, such as clip-ViT-B-32.",
        )


def load(
    directory: str | None, fingerprint: str | None = None, cache: Path | None = None
) -> Encoder:
    """Returns the encoder of the model in ``directory`` (None: ``pixels``), without any network.

    ``fingerprint`` is what its weights must have; ``cache`` is where compiled forms are that the
    encoder process made. Raises ``EncoderUnavailable`` where the directory
    holds no model that can be loaded, or one of other weights.
    """
    if directory is None:
        return PixelsEncoder()
    cuda = _has_cuda()
    compiled = None if cuda else _load_compiled(Path(directory), fingerprint, cache)
    if compiled is not None:
        return compiled
    if fingerprint is not None:
        _check(directory, models.fingerprint(directory), fingerprint)
    return load_torch(directory)


def _check(directory: str | Path, found: str, registered: str) -> None:
    if found != registered:
        raise errors.EncoderUnavailable(
            f'the model in "{directory}" has other weights than when it was registered',
            hint="Put the registered weights back, or register these under another name.",
        )


def _has_cuda() -> bool:
    if not hardware.may_have_cuda():
        return False
    try:
        import torch  # noqa: PLC0415 - seconds; only beside a GPU

        return bool(torch.cuda.is_available())
    except ImportError:
        return False


def _load_compiled(directory: Path, fingerprint: str | None, cache: Path | None) -> Encoder | None:
    """Returns what was measured to be fastest; None without a compiled form of these weights."""
    from visrec_db.encoders import compiled  # noqa: PLC0415 - only for models with weights

    found = compiled.find(directory, fingerprint, cache)
    if found is None:
        if compiled.is_there(directory / compiled.FOLDER):
            _without_compiled(directory, "is damaged or belongs to other weights")
        return None
    if fingerprint is not None:
        _check(directory, found.manifest.fingerprint, fingerprint)
    try:
        from visrec_db.encoders import openvino_encoder  # noqa: PLC0415

        if found.choice is not None and found.choice.form == compiled.TORCH:
            return load_torch(str(directory), choice=found.choice)
        kept.used(found.folder)
        return openvino_encoder.OpenVinoEncoder(found, lambda: load_torch(str(directory)))
    except Exception as error:  # no openvino here, another version, a damaged graph: torch is left
        _without_compiled(directory, f"cannot be used: {type(error).__name__}: {error}")
        return None


def _without_compiled(directory: Path, reason: str) -> None:
    log.warning(
        'the compiled form of the model in "%s" %s; torch runs it instead. '
        "To compile it again: visrec model compile %s",
        directory, reason, directory.name,
    )  # fmt: skip


def load_torch(
    directory: str, plan: Plan | None = None, choice: Choice | None = None
) -> TorchEncoder:
    """Returns what torch runs by ``plan``, which is by default the best for this machine.

    ``choice``: that it was found to be faster here than the compiled form.
    """
    in_modules = (Path(directory) / "modules.json").is_file()
    if not in_modules and not (Path(directory) / "config.json").is_file():
        raise errors.EncoderUnavailable(
            f'directory "{directory}" contains neither modules.json nor config.json',
            hint="Fetch it on the server: visrec model pull NAME.",
        )
    try:
        from visrec_db.encoders import torch_encoder  # noqa: PLC0415 - seconds; only where it is needed

        kind: type[TorchEncoder] = torch_encoder.AutoModelEncoder
        if in_modules:
            kind = torch_encoder.SentenceTransformerEncoder
        if choice is not None:
            plan = torch_encoder.FLOAT32
        loaded = kind(directory, plan)
        loaded.choice = choice
        return loaded
    except errors.VisrecError:
        raise
    except Exception as error:  # whatever a damaged model or an incomplete environment raises
        raise errors.EncoderUnavailable(
            f'the model in "{directory}" cannot be loaded: {type(error).__name__}: {error}'
        ) from error


def as_text(vector: NDArray[np.float32]) -> str:
    """Returns a vector in pgvector's text form; nine digits bring every float32 back exactly."""
    if not np.isfinite(vector).all() or not vector.any():
        raise errors.EncoderUnavailable("the model gave a vector that is not finite or all zeros")
    return ("[" + ",".join(["%.9g"] * len(vector)) + "]") % tuple(vector.tolist())
