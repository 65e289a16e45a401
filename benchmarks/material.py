"""What is embedded and by which model: made once, kept between runs, readable by the server."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import draw_pictures
from tests import tiny_clip
from visrec_db import errors
from visrec_db.encoders import compiled, openvino_encoder, preprocess
from visrec_db.models import compiling, measuring, quantizing

REPOSITORY = Path(__file__).parents[1]
LARGE = (4000, 3000)
"""12 megapixels."""

GRAIN = 5.0
"""Standard deviation of what is added to enlarged pictures, whose detail is otherwise too smooth
to show what decoding at a reduced scale loses."""


@dataclass(frozen=True)
class Pictures:
    """A directory that the server reads, and the files in it, relative to it."""

    root: Path
    small: list[str]
    large: list[str]
    source: str


def make_model(cache: Path) -> Path:
    """A full-size ViT-B/32 of seeded random weights, with its compiled form; its directory."""
    made_from = hashlib.sha256()
    used = (compiled, compiling, measuring, openvino_encoder, preprocess, quantizing, tiny_clip)
    for module in used:
        made_from.update(Path(str(module.__file__)).read_bytes())
    for package in ("torch", "transformers", "openvino"):
        made_from.update(f"{package} {_version(package)}\n".encode())
    directory = cache / f"vit-b-32-random-{made_from.hexdigest()[:12]}"
    if not directory.exists():
        for old in cache.glob("vit-b-32-random-*"):
            shutil.rmtree(old)
        unfinished = cache / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        tiny_clip.make(unfinished, full=True)
        try:
            compiling.compile_model(unfinished)
        except errors.EncoderUnavailable as error:
            print(f"  not compiled: {error.message}")
        unfinished.rename(directory)
    return directory


def make_pictures(shared: Path, cache: Path, count: int, count_large: int) -> Pictures:
    """``count`` pictures where the server can read them, and some enlarged ones."""
    originals, source = _originals(cache, count)
    root = shared / "pictures"
    root.mkdir()
    small = [f"{number:04d}.jpg" for number in range(len(originals))]
    for name, original in zip(small, originals, strict=True):
        shutil.copyfile(original, root / name)
    large = []
    for number, original in enumerate(spread(originals, count_large)):
        key = hashlib.sha256(original.read_bytes()).hexdigest()[:16]
        kept = cache / "large" / f"{key}.jpg"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            _enlarge(original, kept, number)
        large.append(f"large-{number:03d}.jpg")
        shutil.copyfile(kept, root / large[-1])
    return Pictures(root, small, large, source)


def test_data() -> Path:
    """Where photographs and real models are, if there are any."""
    return Path(os.environ.get("VISREC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


def _originals(cache: Path, count: int) -> tuple[list[Path], str]:
    photographs = sorted((test_data() / "clothing").glob("*/*.jpg"))
    if len(photographs) >= count:
        return spread(photographs, count), f"{count} photographs"
    drawn = draw_pictures.draw_all(cache / "drawn", count)
    return drawn, f"{count} DRAWN pictures (VISREC_TEST_DATA has not as many photographs)"


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """So many of the files, at equal distances."""
    return [files[place * len(files) // count] for place in range(min(count, len(files)))]


def _enlarge(original: Path, target: Path, seed: int) -> None:
    """The picture at 12 megapixels and with grain, as a camera's."""
    with Image.open(original) as opened:
        picture = opened.convert("RGB")
    size = LARGE if picture.width > picture.height else LARGE[::-1]
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(seed).standard_normal((*pixels.shape[:2], 1), np.float32)
    noisy = np.clip(pixels + GRAIN * grain, 0, 255).astype(np.uint8)
    unfinished = target.with_suffix(".tmp")
    Image.fromarray(noisy).save(unfinished, "JPEG", quality=90)
    unfinished.rename(target)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
