"""Large pictures, tile by tile: what they give, and what they take."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visrec_db.pictures import colours, images, limits

PACKAGE = Path(colours.__file__).parents[2]
SIZE = (150, 110)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of more than 5,000 pixels is large, and goes in tiles of 64 pixels."""
    monkeypatch.setattr(colours, "LARGE", 5_000)
    monkeypatch.setattr(colours, "TILE", 64)


def smooth(bands: int) -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (5, 6, bands), dtype=np.uint8)
    channels = [
        Image.fromarray(coarse[..., band]).resize(SIZE, Image.Resampling.BICUBIC)
        for band in range(bands)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def picture(mode: str) -> Image.Image:
    match mode:
        case "I;16":
            return Image.fromarray(smooth(1)[..., 0].astype(np.uint16) * 257)
        case "I" | "F":
            return Image.fromarray(smooth(1)[..., 0].astype(np.float32) * 257).convert(mode)
        case "P" | "1" | "L":
            return Image.fromarray(smooth(3)).convert(mode)
        case "P transparent" | "RGB transparent":
            found = Image.fromarray(smooth(3)).convert(mode.removesuffix(" transparent"))
            found.info["transparency"] = 7 if found.mode == "P" else found.getpixel((70, 70))
            return found
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = smooth(bands)
    return Image.frombytes(mode, SIZE, values.tobytes())


MODES = ["RGB", "RGBA", "LA", "L", "1", "P", "CMYK", "YCbCr", "I;16", "I", "F",
         "P transparent", "RGB transparent"]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_in_tiles_it_is_the_same_picture(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_tiles = colours.to_rgb(picture(mode), None)
    monkeypatch.setattr(colours, "LARGE", 1_000_000)
    at_once = colours.to_rgb(picture(mode), None)
    assert in_tiles.mode == at_once.mode == "RGB"
    assert in_tiles.tobytes() == at_once.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_shrunk_in_tiles_it_is_the_picture_shrunk(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_tiles = colours.to_rgb(picture(mode), 30)
    monkeypatch.setattr(colours, "LARGE", 1_000_000)
    assert in_tiles.tobytes() == colours.to_rgb(picture(mode), 30).reduce(3).tobytes()


@pytest.mark.parametrize(
    ("smallest", "size"), [(110, SIZE), (56, SIZE), (55, (75, 55)), (1, (5, 4))]
)
def test_both_sides_keep_what_is_needed(smallest: int, size: tuple[int, int]) -> None:
    assert colours.to_rgb(picture("RGBA"), smallest).size == size


def test_a_tile_without_bright_pixels_does_not_decide_for_itself() -> None:
    values = np.full((110, 150), 200, dtype=np.int32)
    values[100, 140] = 65535
    found = np.asarray(colours.to_rgb(Image.fromarray(values), None))
    assert set(found[..., 0].ravel().tolist()) == {1, 255}


def encoded(picture: Image.Image, format: str) -> bytes:  # noqa: A002
    stream = io.BytesIO()
    picture.save(stream, format)
    return stream.getvalue()


MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
from visrec_db.pictures import images
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
data = open(sys.argv[2], "rb").read()
policy = images.Policy((), 1 << 30, 1 << 30)
images.open_picture(open(sys.argv[3], "rb").read(), policy)
before = peak()
images.open_picture(data, policy, None if sys.argv[4] == "None" else int(sys.argv[4]))
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize(
    ("kind", "smallest", "most"),
    [("RGBA", 448, 1.5), ("I;16", 448, 1.0), ("RGB", None, 1.2), ("RGBA", None, 2.3)],
)
def test_a_large_picture_is_not_held_several_times(
    kind: str, smallest: int | None, most: float, tmp_path: Path
) -> None:
    """In memory for each megapixel: at ``most`` so many times its four megabytes."""
    mega = 36
    plain = Image.new("I;16" if kind == "I;16" else kind, (6000, mega * 1_000_000 // 6000))
    (tmp_path / "large.png").write_bytes(encoded(plain, "PNG"))
    (tmp_path / "small.png").write_bytes(encoded(plain.crop((0, 0, 64, 64)), "PNG"))
    arguments = [str(PACKAGE), str(tmp_path / "large.png"), str(tmp_path / "small.png")]
    peak = subprocess.check_output(
        [sys.executable, "-c", MEASURE, *arguments, str(smallest)], text=True
    )
    assert int(peak) < most * 4 * mega


def test_what_is_decoded_in_another_scale_takes_that_room(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    room_for = limits.Attempt.room_for

    def note(attempt: limits.Attempt, pixels: int) -> object:
        asked.append(pixels // 1_000_000)
        return room_for(attempt, pixels)

    monkeypatch.setattr(limits.Attempt, "room_for", note)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # another test's, which crop looks at
    large, policy = Image.new("L", (5000, 4000)), images.Policy((), 1 << 30, 1 << 30)
    progressive = io.BytesIO()
    large.save(progressive, "JPEG", progressive=True)
    for data, smallest in (
        (encoded(large, "PNG"), 448),
        (encoded(large, "JPEG"), None),
        (encoded(large, "JPEG"), 448),
        (progressive.getvalue(), 448),
        (encoded(large, "WEBP"), 448),
        (encoded(large.crop((0, 0, 4000, 4000)), "WEBP"), 448),
    ):
        images.open_picture(data, policy, smallest)
    assert asked == [20, 20, 0, 20, 80, 16]
