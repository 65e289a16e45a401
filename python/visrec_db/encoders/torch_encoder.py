"""Models that torch runs: CLIP through sentence-transformers, image models through transformers.

On a GPU in half precision; on a CPU with bfloat16 units in bfloat16 where that is faster (the
weights are cast: autocasting each product gains less), else in float32.

The network is switched off before either library is imported: an INSERT never waits for a
download.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a backend may fork; the tokenizer warns of it

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer

from visrec_db import errors
from visrec_db.encoders import hardware, preprocess
from visrec_db.encoders.compiled import Choice

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


@dataclass(frozen=True)
class Plan:
    """Where a model runs, in which numbers, and how many pictures a forward pass takes."""

    device: str
    dtype: torch.dtype
    batch: int


FLOAT32 = Plan("cpu", torch.float32, 8)
"""What runs everywhere, and what other plans are compared with."""


NO_TEXTS = (
    "the model embeds pictures only",
    "Use a model with a text tower, such as clip-ViT-B-32.",
)


BFLOAT16 = Plan("cpu", torch.bfloat16, 32)


class TorchEncoder(ABC):
    """What the two kinds share. ``plan`` None: the fastest for this machine.

    ``settings`` says how pictures are prepared; None: the library prepares them.
    """

    runtime = "torch"
    choice: Choice | None = None

    def __init__(self, directory: str, plan: Plan | None = None) -> None:
        self._directory = directory
        if torch.get_num_threads() > hardware.cpus():
            torch.set_num_threads(hardware.cpus())
        self.model = self.load_model().eval()
        self.settings = preprocess.settings_of(
            self.image_processor().to_dict(), self.prepare_by_library
        )
        self.smallest = self.settings.smallest if self.settings else None
        if plan is None and torch.cuda.is_available():
            plan = Plan("cuda", torch.float16, 256)
        self._use(plan or FLOAT32)
        if plan is None and hardware.has_bf16():
            self._use_what_is_faster()
        self.dimension: int = self.encode_prepared([self.prepare(_GREY)]).shape[1]

    def _use(self, plan: Plan) -> None:
        self.device, self.batch, self._dtype = plan.device, plan.batch, plan.dtype
        self.precision = {torch.float32: "f32", torch.bfloat16: "bf16"}.get(plan.dtype, "f16")
        self.model.to(device=plan.device, dtype=plan.dtype)

    def _use_what_is_faster(self) -> None:
        """Times one pass of each: torch is slower in bfloat16 where a model has convolutions."""
        exact = self.model
        slow = self.seconds()
        self.model = copy.deepcopy(exact)
        self._use(BFLOAT16)
        if self.seconds() > slow:
            self.model = exact
            self._use(FLOAT32)

    def seconds(self) -> float:
        """Returns what a warm pass of eight pictures takes."""
        pictures = [self.prepare(_GREY)] * FLOAT32.batch
        self.encode_prepared(pictures)
        start = time.perf_counter()
        self.encode_prepared(pictures)
        return time.perf_counter() - start

    @abstractmethod
    def load_model(self) -> Any:
        """The model, a torch module in float32 on the CPU."""

    @abstractmethod
    def image_processor(self) -> Any:
        """The library's own preprocessing."""

    @abstractmethod
    def image_tower(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) to (n, dimension), not normalised."""

    @abstractmethod
    def text_tower(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Two of (n, tokens) to (n, dimension), not normalised."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Any]:
        """The arguments of ``text_tower``; ``NoTextTower`` where there is none."""

    @abstractmethod
    def tokenizer(self) -> Any:
        """The library's tokenizer, or None where there is none."""

    def prepare_by_library(self, picture: Image.Image) -> NDArray[np.float32]:
        pixels = self.image_processor()(images=picture, return_tensors="np")["pixel_values"][0]
        return np.asarray(pixels, dtype=np.float32)

    def prepare(self, picture: Image.Image) -> NDArray[Any]:
        return self.settings.prepare(picture) if self.settings else self.prepare_by_library(picture)

    def encode_prepared(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.stack(prepared)).to(self.device)
        if self.settings:  # small and fast to move as bytes; numbers are made where they are used
            mean = torch.tensor(self.settings.mean, device=self.device)
            std = torch.tensor(self.settings.std, device=self.device)
            pixels = ((pixels.float() * self.settings.scale - mean) / std).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return _unit(self.image_tower(pixels.to(self._dtype).contiguous()))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tokens = self.tokenize(texts)
        with torch.inference_mode():
            return _unit(
                self.text_tower(**{name: ids.to(self.device) for name, ids in tokens.items()})
            )


class SentenceTransformerEncoder(TorchEncoder):
    """A model in sentence-transformers' layout with an image tower, such as clip-ViT-B-32."""

    def load_model(self) -> Any:
        model = SentenceTransformer(self._directory, device="cpu", local_files_only=True)
        if "image" not in model.modalities:
            raise errors.EncoderUnavailable(f'the model in "{self._directory}" embeds no images')
        return model

    def image_processor(self) -> Any:
        processor = self.model[0].processor
        return getattr(processor, "image_processor", processor)

    def image_tower(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self._embed({"modality": "image", "pixel_values": pixel_values})

    def text_tower(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self._embed({"modality": "text", **features})

    def _embed(self, features: dict[str, Any]) -> torch.Tensor:
        embedded: torch.Tensor = self.model(features)["sentence_embedding"]
        return embedded

    def tokenize(self, texts: Sequence[str]) -> dict[str, Any]:
        if "text" not in self.model.modalities:
            raise errors.NoTextTower(*NO_TEXTS)
        prompt = self.model.prompts.get(self.model.default_prompt_name) or ""
        tokens = self.model.preprocess([prompt + text for text in texts])
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def tokenizer(self) -> Any:
        return self.model.tokenizer if "text" in self.model.modalities else None


class AutoModelEncoder(TorchEncoder):
    """Any image model that transformers' AutoModel loads; its dimension is found by running it.

    The vector is the model's own image feature where it has one (CLIP and its kin), else its
    pooled output, else the mean of its last hidden states.
    """

    _tokenizer: Any = None

    def load_model(self) -> Any:
        self._processor = transformers.AutoImageProcessor.from_pretrained(
            self._directory, local_files_only=True
        )
        return transformers.AutoModel.from_pretrained(self._directory, local_files_only=True)

    def image_processor(self) -> Any:
        return self._processor

    def image_tower(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = getattr(self.model, "get_image_features", self.model)
        return _pooled(features(pixel_values=pixel_values))

    def text_tower(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = partial(self.model.get_text_features, input_ids=input_ids)
        return _pooled(features(attention_mask=attention_mask))

    def tokenize(self, texts: Sequence[str]) -> dict[str, Any]:
        tokenizer = self.tokenizer()
        if tokenizer is None:
            raise errors.NoTextTower(*NO_TEXTS)
        return dict(tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt"))

    def tokenizer(self) -> Any:
        if self._tokenizer is None and hasattr(self.model, "get_text_features"):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                self._directory, local_files_only=True
            )
        return self._tokenizer


_GREY = Image.new("RGB", (256, 256), (128, 128, 128))


def _unit(rows: torch.Tensor) -> NDArray[np.float32]:
    normalised: NDArray[np.float32] = (
        torch.nn.functional.normalize(rows.float(), dim=-1).cpu().numpy()
    )
    return normalised


def _pooled(output: Any) -> torch.Tensor:
    """One row per picture from whatever the model returns."""
    if isinstance(output, torch.Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        states = output.last_hidden_state  # (n, tokens, width) or (n, channels, height, width)
        pooled = states.mean(dim=1) if states.ndim == 3 else states.mean(dim=(2, 3))
    return pooled.flatten(start_dim=1)
