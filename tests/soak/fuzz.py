"""Damaged pictures: thousands of them, the same for the same seed, and what becomes of each.

``python -m tests.soak.fuzz 2000`` sends them through a real scheduler and says what came of it.
"""

from __future__ import annotations

import io
import os
import random
import re
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from visrec_db import errors
from visrec_db.pictures import images, limits
from visrec_db.pictures.files import Policy
from visrec_db.results import Embedding
from visrec_db.service import scheduler

Pictures = dict[str, bytes]

SEED = 11
ODD = Path(os.environ.get("VISREC_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SMALL = 20_000  # bytes of an odd picture that is worth damaging
POLICY = Policy((), max_bytes=10_000_000, max_pixels=100_000_000, max_seconds=20)


# Good pictures --------------------------------------------------------------------------------


def good_pictures() -> Pictures:
    """What is damaged: those that are written here, and small odd ones where there are any."""
    return written_pictures() | odd_pictures()


@cache  # an encoder may write the same picture in other bytes each time
def written_pictures() -> Pictures:
    """One of each kind that this Pillow can write, and of some that it can only read."""
    coarse = np.random.default_rng(5).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    rgba = Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)
    rgb = rgba.convert("RGB")
    grey, palette, turned = rgb.convert("L"), rgb.quantize(32), rgb.rotate(9)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    moving = {"save_all": True, "append_images": [turned, turned.rotate(9)]}
    moving_palette = moving | {"append_images": [turned.quantize(16)], "transparency": 1}
    sizes = [(16, 16), (48, 48)]
    recipes: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("baseline.jpg", rgb, "JPEG", {"exif": exif, "icc_profile": bytes(500)}),
        ("progressive.jpg", rgb, "JPEG", {"progressive": True, "restart_marker_rows": 1}),
        ("cmyk.jpg", rgb.convert("CMYK"), "JPEG", {}),
        ("8.png", rgb, "PNG", {"exif": exif}),
        ("16.png", deep, "PNG", {}),
        ("alpha.png", rgba, "PNG", {}),
        ("palette.png", palette, "PNG", {"transparency": 3}),
        ("animated.png", rgb, "PNG", moving),
        ("animated.gif", palette, "GIF", moving_palette),
        ("lossy.webp", rgba, "WEBP", {"exif": exif}),
        ("lossless.webp", rgb, "WEBP", {"lossless": True}),
        ("animated.webp", rgb, "WEBP", moving),
        ("alpha.avif", rgba, "AVIF", {"speed": 10}),
        ("animated.avif", rgb, "AVIF", moving | {"speed": 10}),
        ("raw.tif", rgb, "TIFF", {}),
        ("deflate.tif", rgb, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("lzw.tif", rgba, "TIFF", {"compression": "tiff_lzw"}),
        ("jpeg.tif", rgb, "TIFF", {"compression": "jpeg"}),
        ("g4.tif", rgb.convert("1"), "TIFF", {"compression": "group4"}),
        ("float.tif", grey.convert("F"), "TIFF", {}),
        ("rgb.bmp", rgb, "BMP", {}),
        ("palette.bmp", palette, "BMP", {}),
        ("several.ico", rgba, "ICO", {"sizes": sizes}),
        ("bitmaps.ico", rgba, "ICO", {"sizes": sizes, "bitmap_format": "bmp"}),
        ("runs.tga", rgba, "TGA", {"compression": "tga_rle"}),
        ("palette.tga", palette, "TGA", {}),
        ("rgb.ppm", rgb, "PPM", {}),
        ("deep.pgm", deep, "PPM", {}),
        ("lossless.jp2", rgb, "JPEG2000", {}),
        ("tiles.jp2", rgba, "JPEG2000", {"tile_size": (32, 32), "irreversible": True}),
        ("plain.j2k", grey, "JPEG2000", {"no_jp2": True}),
    ]
    found = {
        "interlaced.png": interlaced_png(np.asarray(rgb)),
        "tiles.tif": tiled_tiff(np.asarray(rgb), 32),
        "words.ppm": b"P3 4 4 255 " + b" ".join(b"%d" % (i * 5) for i in range(48)),
    }
    Image.init()
    for name, picture, format_, options in recipes:
        if format_ in Image.SAVE:
            stream = io.BytesIO()
            picture.save(stream, format_, **options)
            found[name] = stream.getvalue()
    return found


def odd_pictures() -> Pictures:
    """The small ones among the real odd pictures."""
    folder = ODD / "odd-images"
    if not folder.is_dir():
        return {}
    Image.init()
    ours = {suffix for suffix, format_ in Image.EXTENSION.items() if format_ in images.FORMATS}
    files = [file for file in sorted(folder.iterdir()) if file.suffix in ours]
    return {file.name: file.read_bytes() for file in files if file.stat().st_size < SMALL}


def interlaced_png(pixels: np.ndarray) -> bytes:
    """An Adam7 PNG, which Pillow reads and does not write."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1))  # fmt: skip
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, across in passes
        for row in pixels[top::down, left::across]
    )
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


def tiled_tiff(pixels: np.ndarray, side: int) -> bytes:
    """A TIFF in tiles, which Pillow reads and does not write."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, -height % side), (0, -width % side), (0, 0)))
    tiles = [
        zlib.compress(padded[top : top + side, left : left + side].tobytes())
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    count, lengths = len(tiles), [len(tile) for tile in tiles]
    lists = 8 + 2 + 10 * 12 + 4  # behind the header and ten entries
    first = lists + 6 + 8 * count
    offsets = [first + sum(lengths[:number]) for number in range(count)]
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, lists), (259, 3, 1, 8),
        (262, 3, 1, 2), (277, 3, 1, 3), (322, 4, 1, side), (323, 4, 1, side),
        (324, 4, count, lists + 6), (325, 4, count, lists + 6 + 4 * count),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    numbers = struct.pack(f"<3H{2 * count}I", 8, 8, 8, *offsets, *lengths)
    return b"".join([b"II*\0\x08\0\0\0\x0a\0", directory, bytes(4), numbers, *tiles])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Damage ---------------------------------------------------------------------------------------

Damage = Callable[[random.Random, bytes, list[bytes]], bytes]


def flip_bits(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 64))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flip_in_header(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    return flip_bits(chance, data[:64], others) + data[64:]


def truncate(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    return data[: chance.randrange(len(data))]


def duplicate_part(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    start, end = some_part(chance, data)
    return data[:end] + data[start:end] * chance.choice((1, 1, 3, 50)) + data[end:]


def remove_part(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    start, end = some_part(chance, data)
    return data[:start] + data[end:]


def wrong_length(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Extreme numbers of two or four bytes where numbers are likely to stand."""
    place = chance.choice((chance.randrange(len(data)), chance.randrange(min(len(data), 200))))
    number = chance.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000))
    width = chance.choice((2, 4))
    order: Literal["big", "little"] = "big" if chance.random() < 0.5 else "little"
    packed = (number & ((1 << 8 * width) - 1)).to_bytes(width, order)
    return data[:place] + packed + data[place + width :]


def splice(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The beginning of one picture and the end of another."""
    other = chance.choice(others)
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def inflate(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Wherever a side of 96, 72, 48 or 32 pixels may be said: another, often enormous."""
    fields = [
        match.start() + start
        for pattern, start in ((rb"\0[\x60\x48\x30\x20]", 0), (rb"[\x60\x48\x30\x20]\0", 0))
        for match in re.finditer(pattern, data[:2000], re.DOTALL)
    ]
    if not fields:
        return wrong_length(chance, data, others)
    changed = bytearray(data)
    for place in chance.sample(fields, min(2, len(fields))):
        number = chance.choice((0, 1, 95, 97, 500, 8000, 16000, 32767, 65535))
        order = ">H" if data[place] == 0 else "<H"
        changed[place : place + 2] = struct.pack(order, number)
    return right_checksums(bytes(changed))


def right_checksums(data: bytes) -> bytes:
    """A PNG's chunks with the checksums they should have, so that a decoder goes on."""
    if not data.startswith(b"\x89PNG"):
        return data
    place, chunks = 8, [data[:8]]
    while place + 12 <= len(data):
        length = struct.unpack_from(">I", data, place)[0]
        body = data[place + 4 : place + 8 + length]
        if len(body) < length + 4:
            break
        chunks.append(png_chunk(body[:4], body[4:]))
        place += length + 12
    return b"".join([*chunks, data[place:]])


def flip_behind_checksums(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    return right_checksums(flip_bits(chance, data, others))


def some_part(chance: random.Random, data: bytes) -> tuple[int, int]:
    """A part that begins and ends where chunks, boxes and segments do, or just anywhere."""
    seams = [match.start() for match in re.finditer(rb"\xff[\xc0-\xfe]|....[A-Za-z]{4}", data)]
    if len(seams) > 2 and chance.random() < 0.7:
        start, end = sorted(chance.sample(seams, 2))
    else:
        start = chance.randrange(len(data))
        end = min(len(data), start + chance.choice((1, 4, 100, 5000)))
    return start, end


DAMAGES: tuple[Damage, ...] = (
    flip_bits, flip_in_header, flip_behind_checksums, truncate, duplicate_part, remove_part,
    wrong_length, splice, inflate,
)  # fmt: skip


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged pictures with their names, always the same for a seed (and a Pillow)."""
    chance = random.Random(seed)
    good = good_pictures()
    names, others = list(good), list(good.values())
    for number in range(count):
        name = names[number % len(names)]
        damages = chance.sample(DAMAGES, chance.choice((1, 1, 1, 2)))
        data = good[name]
        for damage in damages:
            data = damage(chance, data, others) or b"\0"
        yield f"{number} {name} {' '.join(damage.__name__ for damage in damages)}", data


# What becomes of them -------------------------------------------------------------------------


@dataclass
class Report:
    """What came of the mutants. ``memory`` is in MB, after each 500."""

    tried: int = 0
    vectors: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    seconds: float = 0.0
    memory: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        failures = ", ".join(f"{code} {count}" for code, count in self.failures.most_common())
        return (
            f"{self.tried} damaged pictures in {self.seconds:.0f} s: {self.vectors} vectors;"
            f" {failures}; slowest {self.slowest[0]:.2f} s ({self.slowest[1]});"
            f" memory {self.memory} MB; neither vector nor failure: {self.wrong or 'none'}"
        )


class Asked(scheduler.Request):
    """A request of one picture that can be waited for."""

    def __init__(self, model: scheduler.LazyEncoder, data: bytes) -> None:
        self.answered = threading.Event()
        super().__init__(model, [data], POLICY, False, self.answered.set)


def run(count: int, seed: int = SEED, say: Callable[[str], None] = print) -> Report:
    """Send the mutants through a scheduler with ``pixels``, one after the other."""
    work, model = scheduler.Scheduler(decoders=2), scheduler.LazyEncoder(None)
    report = Report()
    started = time.monotonic()
    for name, data in mutants(seed, count):
        begun = time.monotonic()
        asked = Asked(model, data)
        work.submit(asked)
        if not asked.answered.wait(POLICY.max_seconds + 10):
            report.wrong.append(f"{name}: no answer")
            continue
        report.tried += 1
        report.slowest = max(report.slowest, (time.monotonic() - begun, name))
        match asked.results:
            case [Embedding()]:
                report.vectors += 1
            case [errors.ImageError() as error]:
                report.failures[error.code] += 1
            case [other]:
                report.wrong.append(f"{name}: {other!r}")
        if report.tried % 500 == 0:
            report.memory.append(resident())
            say(f"{report.tried}: {report.memory[-1]} MB")
    report.seconds = time.monotonic() - started
    return report


def resident() -> int:
    """Megabytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


if __name__ == "__main__":
    limits.return_freed_memory()
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
