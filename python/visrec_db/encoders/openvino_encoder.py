"""A model compiled by OpenVINO, from the form that ``visrec model compile`` left beside it.

It loads in about a second, since it imports neither torch nor transformers. Beside the model::

    openvino/visrec.json    ``Manifest``: what it was made from, and how inputs are prepared
    openvino/image.xml+bin  bytes of pictures (n, height, width, 3) to vectors (n, dimension)
    openvino/image-int8.xml+bin  the same in 8-bit integers, where that was found to lose nothing
    openvino/text.xml+bin   token ids and mask (n, tokens) to vectors, where the model has texts

Nothing here is used that was made from other weights than those that lie beside it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visrec_db import errors
from visrec_db.encoders import hardware, preprocess
from visrec_db.models import models, quantizing

if TYPE_CHECKING:
    from visrec_db.encoders.encoder import Encoder

FOLDER = models.COMPILED
IMAGE, IMAGE_INT8 = "image.xml", "image-int8.xml"
FORMAT = 1
"""Of the manifest and of the graphs' inputs and outputs; another is not read."""


def options(name: str) -> dict[str, Any]:
    """Returns how to run the graph of this name; the precision is that of its float parts."""
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    if name == IMAGE_INT8:
        return {**exact, "DYNAMIC_QUANTIZATION_GROUP_SIZE": quantizing.GROUP}
    return exact


@dataclass(frozen=True)
class Text:
    """How a text becomes token ids: ``tokenizer`` is a file under the model's directory."""

    tokenizer: str
    max_length: int
    pad_id: int


@dataclass(frozen=True)
class Manifest:
    """``visrec.json``.

    ``sources`` and ``files`` hold size and time of modification (nanoseconds) of the model's
    files, and size of the compiled ones. ``fingerprint`` is the model's: it decides where a copy
    has changed the times. ``runtime`` is the OpenVINO that made it, for people to read. ``int8``:
    whether there is ``image-int8.xml``.
    """

    format: int
    runtime: str
    fingerprint: str
    sources: dict[str, list[int]]
    files: dict[str, int]
    dimension: int
    weights: str
    image: preprocess.Settings
    text: Text | None
    int8: bool = False

    def write(self, directory: Path) -> None:
        fields = asdict(self)
        (directory / FOLDER / "visrec.json").write_text(json.dumps(fields, indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises OSError, ValueError, TypeError or KeyError where none can be read."""
        fields = json.loads((directory / FOLDER / "visrec.json").read_text())
        if fields["format"] != FORMAT:
            raise ValueError(f"its format is {fields['format']}, not {FORMAT}")
        text = Text(**fields["text"]) if fields["text"] else None
        return cls(
            **{
                **fields,
                "image": preprocess.Settings.from_json(fields["image"]),
                "text": text,
            }
        )


def is_there(directory: Path) -> bool:
    """Returns whether the model has a compiled form."""
    return (directory / FOLDER / "visrec.json").is_file()


def usable(directory: Path) -> Manifest | None:
    """Returns the manifest of a whole compiled form of the very model in ``directory``, or None.

    Files that look untouched are believed; others are hashed, which takes about a second.
    """
    try:
        manifest = Manifest.read(directory)
        for name, size in manifest.files.items():
            if (directory / FOLDER / name).stat().st_size != size:
                return None
        sources = stamps(directory)
        if sources == manifest.sources:
            return manifest
        if {name: stamp[0] for name, stamp in sources.items()} != {
            name: stamp[0] for name, stamp in manifest.sources.items()
        }:
            return None
        same = models.fingerprint(str(directory)) == manifest.fingerprint
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return manifest if same else None


def stamps(directory: Path) -> dict[str, list[int]]:
    """Returns size and time of modification of each file that makes the model what it is."""
    return {
        str(file.relative_to(directory)): [file.stat().st_size, file.stat().st_mtime_ns]
        for file in models.sources(directory)
    }


def import_openvino() -> Any:
    """Imports openvino, which would report its import to its makers unless stopped."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino  # noqa: PLC0415 - a fifth of a second; only where it is used

    return openvino


class OpenVinoEncoder:
    """An ``Encoder`` of a compiled model.

    ``load_torch`` gives the torch one, for texts of models whose tokenizer could not be reproduced.
    """

    runtime = "openvino"
    device = "cpu"

    def __init__(
        self, directory: Path, manifest: Manifest, load_torch: Callable[[], Encoder]
    ) -> None:
        self._load_torch = load_torch
        self._directory = directory
        self._manifest = manifest
        self._settings = manifest.image
        self._core = import_openvino().Core()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        bf16 = "BF16" in able and hardware.has_bf16()
        int8 = manifest.int8 and hardware.prefers_int8()
        self.precision = "bf16" if bf16 else "int8" if int8 else "f32"
        self.batch = 32 if bf16 else 8
        self.smallest: int | None = manifest.image.smallest
        self.dimension = manifest.dimension
        self._image = self._compile(IMAGE_INT8 if self.precision == "int8" else IMAGE)
        self._text: Any = None
        self._tokenizer: Any = None
        self._torch: Encoder | None = None
        self.encode_prepared([np.zeros((*self._settings.size, 3), np.uint8)])

    def prepare(self, picture: Image.Image) -> preprocess.Pixels:
        return self._settings.prepare(picture)

    def encode_prepared(self, prepared: Sequence[preprocess.Pixels]) -> NDArray[np.float32]:
        return _unit(self._image.infer({0: np.stack(prepared)})[0])

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._manifest.text is None:
            self._torch = self._torch or self._load_torch()
            return self._torch.encode_texts(texts)
        if self._text is None:
            self._tokenizer = load_tokenizer(self._directory, self._manifest.text)
            self._text = self._compile("text.xml")
        return _unit(self._text.infer(list(tokens(self._tokenizer, texts)))[0])

    def _compile(self, name: str) -> Any:
        compiled = self._core.compile_model(
            str(self._directory / FOLDER / name),
            "CPU",
            {
                **options(name),
                **({"INFERENCE_PRECISION_HINT": "bf16"} if self.precision == "bf16" else {}),
                "INFERENCE_NUM_THREADS": hardware.cpus(),
                "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": False,  # threads that decode run beside it
            },
        )
        return compiled.create_infer_request()


def load_tokenizer(directory: Path, text: Text) -> Any:
    """Returns the model's own tokenizer, without transformers around it."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - only for texts

    tokenizer = Tokenizer.from_file(str(directory / text.tokenizer))
    tokenizer.enable_truncation(text.max_length)
    tokenizer.enable_padding(pad_id=text.pad_id)
    return tokenizer


def tokens(tokenizer: Any, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns ids and mask, both of shape (texts, tokens of the longest)."""
    encoded = tokenizer.encode_batch(list(texts))
    ids = np.array([each.ids for each in encoded], dtype=np.int64)
    return ids, np.array([each.attention_mask for each in encoded], dtype=np.int64)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise errors.EncoderUnavailable("the model gave a vector of zeros")
    unit: NDArray[np.float32] = rows / norms
    return unit
