"""A model compiled by OpenVINO: see ``compiled`` for what lies on disk.

It loads in about a second, since it imports neither torch nor transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visrec_db import errors
from visrec_db.encoders import hardware, preprocess
from visrec_db.encoders.compiled import IMAGE, IMAGE_INT8, TEXT, TOKENIZER, Compiled, Text
from visrec_db.models import quantizing

if TYPE_CHECKING:
    from visrec_db.encoders.encoder import Encoder

FORMS = {
    "f32": (IMAGE, "f32"),
    "bf16": (IMAGE, "bf16"),
    "int8": (IMAGE_INT8, "f32"),
    "int8 with bf16": (IMAGE_INT8, "bf16"),
}
"""Of each number format the graph, and what its float parts are computed in."""

BATCH = {"f32": 8, "bf16": 32, "int8": 8, "int8 with bf16": 32}


def possible(core: Any, *, int8: bool) -> list[str]:
    """Returns the number formats that this machine can run; the first is exact."""
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bf16 = "BF16" in able and hardware.has_bf16()
    return [
        form
        for form, (graph, precision) in FORMS.items()
        if (int8 or graph == IMAGE) and (bf16 or precision != "bf16")
    ]


def compile_graph(core: Any, file: Path, precision: str) -> Any:
    """Returns a request that runs the graph in a file."""
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": hardware.cpus(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # threads that decode run beside it
    }
    if file.name == IMAGE_INT8:
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = quantizing.GROUP
    return core.compile_model(str(file), "CPU", options).create_infer_request()


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
        self, found: Compiled, load_torch: Callable[[], Encoder], form: str | None = None
    ) -> None:
        self._load_torch = load_torch
        self._folder, self._manifest, self.choice = found.folder, found.manifest, found.choice
        self._settings = found.manifest.image
        self._core = import_openvino().Core()
        # What was not measured here runs exactly, until it is.
        self.precision = form or (found.choice.form if found.choice else "f32")
        if self.precision not in possible(self._core, int8=found.manifest.int8):
            self.precision, self.choice = "f32", None
        self.batch = BATCH[self.precision]
        self.smallest: int | None = self._settings.smallest
        self.dimension = found.manifest.dimension
        graph, precision = FORMS[self.precision]
        self._image = compile_graph(self._core, self._folder / graph, precision)
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
            self._tokenizer = load_tokenizer(self._folder, self._manifest.text)
            self._text = compile_graph(self._core, self._folder / TEXT, FORMS[self.precision][1])
        return _unit(self._text.infer(list(tokens(self._tokenizer, texts)))[0])


def load_tokenizer(folder: Path, text: Text) -> Any:
    """Returns the model's own tokenizer, without transformers around it."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - only for texts

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
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
