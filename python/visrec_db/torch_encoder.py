"""Models that torch runs: CLIP through sentence-transformers, image models through transformers.

The network is switched off before either library is imported: an INSERT never waits for a
download.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a backend may fork; the tokenizer warns of it

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer

from visrec_db import errors

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _unit(rows: torch.Tensor) -> NDArray[np.float32]:
    normalised: NDArray[np.float32] = (
        torch.nn.functional.normalize(rows.float(), dim=-1).cpu().numpy()
    )
    return normalised


class SentenceTransformerEncoder:
    """A model in sentence-transformers' layout with an image tower, such as clip-ViT-B-32."""

    def __init__(self, directory: str) -> None:
        self._model = SentenceTransformer(directory, device=_device(), local_files_only=True)
        self._model.eval()
        self.runtime, self.precision, self.device, self.batch = "torch", "fp32", _device(), 16
        if "image" not in self._model.modalities:
            raise errors.EncoderUnavailable(f'the model in "{directory}" embeds no images')
        self.dimension = self.encode_prepared([self.prepare(_GREY)]).shape[1]

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        return self._model.preprocess([picture])["pixel_values"][0]

    def encode_prepared(self, prepared: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        features = {"modality": "image", "pixel_values": torch.stack(list(prepared))}
        with torch.inference_mode():
            features["pixel_values"] = features["pixel_values"].to(self._model.device)
            return _unit(self._model(features)["sentence_embedding"])

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if "text" not in self._model.modalities:
            raise errors.NoTextTower("the model embeds pictures only")
        vectors = self._model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
        return _unit(vectors)


class AutoModelEncoder:
    """Any image model that transformers' AutoModel loads; its dimension is found by running it.

    The vector is the model's own image feature where it has one (CLIP and its kin), else its
    pooled output, else the mean of its last hidden states.
    """

    def __init__(self, directory: str) -> None:
        self._processor = transformers.AutoImageProcessor.from_pretrained(
            directory, local_files_only=True
        )
        self._model = transformers.AutoModel.from_pretrained(directory, local_files_only=True)
        self._model.to(_device()).eval()
        self.runtime, self.precision, self.device, self.batch = "torch", "fp32", _device(), 16
        self._tokenizer: Any = None
        self._directory = directory
        self.dimension = self.encode_prepared([self.prepare(_GREY)]).shape[1]

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        return self._processor(images=picture, return_tensors="pt")["pixel_values"][0]

    def encode_prepared(self, prepared: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        pixel_values = torch.stack(list(prepared)).to(self._model.device)
        features = getattr(self._model, "get_image_features", self._model)
        with torch.inference_mode():
            return _unit(_pooled(features(pixel_values=pixel_values)))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not hasattr(self._model, "get_text_features"):
            raise errors.NoTextTower(
                "the model embeds pictures only",
                hint="Use a model with a text tower, such as clip-ViT-B-32.",
            )
        if self._tokenizer is None:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                self._directory, local_files_only=True
            )
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt"
        ).to(self._model.device)
        with torch.inference_mode():
            return _unit(_pooled(self._model.get_text_features(**tokens)))


_GREY = Image.new("RGB", (256, 256), (128, 128, 128))


def _pooled(output: Any) -> torch.Tensor:
    """One row per picture from whatever the model returns."""
    if isinstance(output, torch.Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        states = output.last_hidden_state  # (n, tokens, width) or (n, channels, height, width)
        pooled = states.mean(dim=1) if states.ndim == 3 else states.mean(dim=(2, 3))
    return pooled.flatten(start_dim=1)
