"""Real odd pictures: each gives the vector of what it shows, or the failure that fits it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from visrec_db import errors
from visrec_db.backend import in_process
from visrec_db.encoders import encoder
from visrec_db.pictures import images
from visrec_db.results import Embedding

pytestmark = [pytest.mark.data, pytest.mark.filterwarnings("ignore")]  # Pillow's remarks

PIXELS = encoder.PixelsEncoder()
READ_NEVERTHELESS = {"pillow.ico"}
"""With all of its formats, Pillow takes this for a TGA."""

OBJECTS_LATER = {"apng__chunk_no_fctl.png"}
"""Pillow opens these, shows a first frame, and then objects to what follows."""


@pytest.fixture(scope="module")
def folder(test_data: Path) -> Path:
    return test_data / "odd-images"


@pytest.fixture(scope="module")
def manifest(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())
    return found


def readable(entry: dict[str, Any]) -> bool:
    formats = (*images.FORMATS, "MPO")
    fine = entry["pillow_13"] == "ok" and entry["format"] in formats
    return entry["file"] in READ_NEVERTHELESS or (fine and entry["file"] not in OBJECTS_LATER)


def fitting(entry: dict[str, Any]) -> str:
    """The code of the failure, by what Pillow itself said of the file."""
    said = entry["pillow_13"]
    if "DecompressionBomb" in said and entry["format"] in (None, *images.FORMATS):
        return "bomb"
    if entry["format"] in images.FORMATS and ("truncated" in said or "broken data" in said):
        return "truncated"
    return "not_an_image"


def vector(source: images.Source, folder: Path) -> np.ndarray | errors.ImageError:
    policy = images.Policy((str(folder),), 10_000_000, 100_000_000)
    [found] = in_process.embed_images(PIXELS, [source], policy, lambda: None)
    return np.array(json.loads(found.vector)) if isinstance(found, Embedding) else found


def as_people_see_it(path: Path) -> np.ndarray:
    """The first frame in 8-bit RGB, upright, on white: worked out here pixel by pixel."""
    with Image.open(path) as opened:
        turned = opened.getexif().get(0x0112, 1) if opened.format != "TIFF" else 1
        frame = next(iter(ImageSequence.Iterator(opened)))
        frame.load()
        pixels = shown(frame)
    return turn(pixels, turned)


def shown(frame: Image.Image) -> np.ndarray:
    key = frame.info.get("transparency")
    stored = np.asarray(frame)
    match frame.mode:
        case "P":
            colours = table(frame, key)
            colours = np.vstack([colours, np.tile([[0, 0, 0, 255]], (256 - len(colours), 1))])
            pixels = colours[stored].astype(float)
        case "1" | "L" | "I;16" | "I" | "F":
            deep = frame.mode.startswith("I;16") or stored.max() > 255
            grey = stored * 255.0 if frame.mode == "1" else stored / (257.0 if deep else 1.0)
            opaque = np.full(grey.shape, 255.0)
            if isinstance(key, int) and not deep:
                opaque[stored == key] = 0
            pixels = np.stack([grey, grey, grey, opaque], axis=-1)
        case "LA":
            pixels = stored[..., [0, 0, 0, 1]].astype(float)
        case "CMYK":
            ink = 255.0 - stored
            light = ink[..., :3] * ink[..., 3:] / 255
            pixels = np.concatenate([light, np.full((*light.shape[:2], 1), 255.0)], axis=-1)
        case "RGB":
            opaque = np.full((*stored.shape[:2], 1), 255)
            if isinstance(key, tuple):
                opaque[(stored == key).all(axis=-1)] = 0
            pixels = np.concatenate([stored, opaque], axis=-1).astype(float)
        case "RGBA":
            pixels = stored.astype(float)
        case other:
            raise NotImplementedError(other)
    alpha = pixels[..., 3:] / 255
    return np.clip(np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)), 0, 255).astype(np.uint8)


def table(frame: Image.Image, key: int | bytes | None) -> np.ndarray:
    """The palette as rows of red, green, blue and opacity."""
    assert frame.palette is not None
    mode, data = frame.palette.mode, bytes(frame.palette.palette)
    rows = np.frombuffer(data[: len(data) // len(mode) * len(mode)], np.uint8)
    rows = rows.reshape(-1, len(mode)).astype(int)
    colours = rows if len(mode) == 4 else np.hstack([rows[:, :3], np.full((len(rows), 1), 255)])
    opacities = {key: 0} if isinstance(key, int) else dict(enumerate(key or b""))
    for index, opacity in opacities.items():
        if index < len(colours):
            colours[index, 3] = opacity
    return colours


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Orientations 5 to 8 have rows and columns swapped; then some are mirrored."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def plainly(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def test_what_can_be_read_has_the_vector_of_what_it_shows(
    folder: Path, manifest: list[dict[str, Any]]
) -> None:
    entries = [entry for entry in manifest if readable(entry)]
    assert len(entries) > 60
    unlike = {}
    for entry in entries:
        found = vector(entry["file"], folder)
        pixels = as_people_see_it(folder / entry["file"])
        expected = vector(plainly(pixels), folder)
        if isinstance(found, errors.ImageError) or isinstance(expected, errors.ImageError):
            unlike[entry["file"]] = f"{found!r} {expected!r}"[:100]
        elif found @ expected < 0.99:
            unlike[entry["file"]] = f"{entry['format']} {entry['mode']}: {found @ expected:.3f}"
    assert unlike == {}


def test_what_cannot_be_read_fails_as_fits_it(folder: Path, manifest: list[dict[str, Any]]) -> None:
    broken = [entry for entry in manifest if not readable(entry)]
    assert len(broken) > 90
    unfit = {}
    for entry in broken:
        found = vector(entry["file"], folder)
        code = found.code if isinstance(found, errors.ImageError) else "a vector"
        if code != fitting(entry):
            unfit[entry["file"]] = f"{code}, not {fitting(entry)}: {entry['pillow_13']}"
    assert unfit == {}


def test_whatever_lies_beside_them_is_no_picture(
    folder: Path, manifest: list[dict[str, Any]]
) -> None:
    known = {entry["file"] for entry in manifest}
    others = [file.name for file in folder.iterdir() if file.name not in known]
    for name in others:
        assert isinstance(vector(name, folder), errors.NotAnImage), name
