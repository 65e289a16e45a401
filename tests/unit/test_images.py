"""From a path or bytes to a picture: every way in, every mode, and every error by its class."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visrec_db import errors
from visrec_db.pictures import files, images

RED, WHITE = (255, 0, 0), (255, 255, 255)
BYTES, PIXELS = 10_000_000, 1_000_000
NOWHERE = images.Policy(roots=(), max_bytes=BYTES, max_pixels=PIXELS)
CODES = {
    errors.ImageMissing: "missing",
    errors.ImageOutsideRoots: "outside_roots",
    errors.ImageUnreadable: "unreadable",
    errors.ImageTooLarge: "too_large",
    errors.ImageBomb: "bomb",
    errors.ImageTimeout: "timeout",
    errors.ImageTruncated: "truncated",
    errors.NotAnImage: "not_an_image",
}


def encoded(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:  # noqa: A002
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def noise(width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def colour(picture: Image.Image) -> tuple[int, int, int]:
    """The one colour of a plain picture, which must be RGB."""
    assert picture.mode == "RGB"
    [(_, value)] = picture.getcolors()
    return value


def opened(data: bytes) -> Image.Image:
    return images.open_picture(data, NOWHERE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    return directory


@pytest.fixture
def policy(root: Path) -> images.Policy:
    return images.Policy(roots=(str(root),), max_bytes=BYTES, max_pixels=PIXELS)


def refusal(
    kind: type[errors.ImageError], source: images.Source, policy: images.Policy = NOWHERE
) -> errors.ImageError:
    """The error for this source, which must be exactly of this class and bear its code."""
    with pytest.raises(errors.ImageError) as caught:
        images.open_picture(source, policy)
    assert (type(caught.value), caught.value.code) == (kind, CODES[kind])
    return caught.value


# Where paths lead -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["red.png", "shoes/red.png", "./red.png", "shoes//red.png"])
def test_a_relative_path_is_found_under_the_root(
    root: Path, policy: images.Policy, name: str
) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(encoded(Image.new("RGB", (2, 2), RED)))
    assert colour(images.open_picture(name, policy)) == RED


def test_the_first_root_that_has_the_file_gives_it(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("first", "second", "third")]
    for place, shade in zip(places[1:], (RED, WHITE), strict=True):
        place.mkdir()
        (place / "x.png").write_bytes(encoded(Image.new("RGB", (2, 2), shade)))
    (places[2] / "only-here.png").write_bytes(encoded(Image.new("RGB", (2, 2), "blue")))
    several = images.Policy(tuple(map(str, places)), BYTES, PIXELS)
    assert colour(images.open_picture("x.png", several)) == RED
    assert colour(images.open_picture("only-here.png", several)) == (0, 0, 255)
    assert colour(images.open_picture(str(places[2] / "x.png"), several)) == WHITE


def test_a_link_is_followed_as_long_as_it_stays_inside(root: Path, policy: images.Policy) -> None:
    (root / "real.png").write_bytes(encoded(Image.new("RGB", (2, 2), RED)))
    (root / "relative.png").symlink_to("real.png")
    (root / "absolute.png").symlink_to(root / "real.png")
    assert colour(images.open_picture("relative.png", policy)) == RED
    assert colour(images.open_picture(str(root / "absolute.png"), policy)) == RED


def test_a_root_may_itself_be_a_link(tmp_path: Path, root: Path) -> None:
    (root / "x.png").write_bytes(encoded(Image.new("RGB", (2, 2), RED)))
    (tmp_path / "link").symlink_to(root)
    linked = images.Policy((str(tmp_path / "link"),), BYTES, PIXELS)
    assert colour(images.open_picture("x.png", linked)) == RED


@pytest.mark.parametrize("path", ["none.png", "none/at/all.png", "file/below.png"])
def test_a_file_that_is_not_there_is_missing(root: Path, policy: images.Policy, path: str) -> None:
    (root / "file").touch()
    assert str(root) in refusal(errors.ImageMissing, path, policy).message
    refusal(errors.ImageMissing, str(root / path), policy)


def test_an_empty_path_is_missing(policy: images.Policy) -> None:
    assert refusal(errors.ImageMissing, "", policy).message == "the path is empty"


@pytest.mark.parametrize("path", ["http://host/x.png", "s3://bucket/x.png", "File:///x.png"])
def test_a_url_is_said_to_be_one(policy: images.Policy, path: str) -> None:
    error = refusal(errors.ImageUnreadable, path, policy)
    assert error.message == "images are not fetched from URLs yet"
    assert "image_roots" in (error.hint or "")


def test_a_link_to_nothing_is_missing(root: Path, policy: images.Policy) -> None:
    (root / "dangling.png").symlink_to("nothing")
    refusal(errors.ImageMissing, "dangling.png", policy)


@pytest.mark.parametrize(
    "path", ["..", "../secret.png", "a/../../secret.png", "a/..", "{root}/../secret.png"]
)
def test_dot_dot_is_refused_even_where_it_would_stay_inside(
    root: Path, policy: images.Policy, path: str
) -> None:
    (root / "a").mkdir()
    (root.parent / "secret.png").write_bytes(encoded(Image.new("RGB", (2, 2))))
    refusal(errors.ImageOutsideRoots, path.format(root=root), policy)


def test_an_absolute_path_outside_tells_nothing_of_what_is_there(
    root: Path, policy: images.Policy
) -> None:
    sibling = root.parent / "images-of-others"  # begins with the root's name, is not inside
    sibling.mkdir()
    (sibling / "there.png").write_bytes(encoded(Image.new("RGB", (2, 2))))
    there = refusal(errors.ImageOutsideRoots, str(sibling / "there.png"), policy)
    absent = refusal(errors.ImageOutsideRoots, str(sibling / "absent.png"), policy)
    assert (there.message, there.hint) == (absent.message, absent.hint)


def test_without_roots_every_path_is_outside(root: Path) -> None:
    refusal(errors.ImageOutsideRoots, "x.png")
    assert "image_roots" in (refusal(errors.ImageOutsideRoots, str(root / "x.png")).hint or "")


@pytest.mark.parametrize("link", ["file.png", "folder"])
def test_a_link_out_of_the_roots_is_refused(root: Path, policy: images.Policy, link: str) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(encoded(Image.new("RGB", (2, 2))))
    (root / "file.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    path = link if link == "file.png" else "folder/secret.png"
    refusal(errors.ImageOutsideRoots, path, policy)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_out_of_the_roots_does_not_tell_what_is_there(
    root: Path, policy: images.Policy, there: bool
) -> None:
    outside = root.parent / "secret.png"
    if there:
        outside.write_bytes(encoded(Image.new("RGB", (2, 2))))
    (root / "x.png").symlink_to(outside)
    error = refusal(errors.ImageOutsideRoots, "x.png", policy)
    assert error.message == "the path is a link that leads out of image_roots"


def test_a_link_put_in_place_between_two_looks_is_refused(
    root: Path, policy: images.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = root.parent / "secret.png"
    outside.write_bytes(encoded(Image.new("RGB", (2, 2))))
    (root / "x.png").write_bytes(b"")
    opened = os.open

    def exchange(path: str, flags: int) -> int:
        (root / "x.png").unlink()
        (root / "x.png").symlink_to(outside)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", exchange)
    refusal(errors.ImageOutsideRoots, "x.png", policy)


# Stamps ---------------------------------------------------------------------------------


def test_a_stamp_is_of_the_content_that_was_read(
    root: Path, policy: images.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "x.bin").write_bytes(b"abc")
    os.utime(root / "x.bin", ns=(1, 1_000_000_001))
    digest = hashlib.sha256(b"3:1000000001").digest()
    stamp = int.from_bytes(digest, "big") >> (256 - 63)
    assert files.read_file("x.bin", policy) == files.Content(b"abc", stamp)
    assert files.file_stamps(["x.bin", str(root / "x.bin")], policy) == [stamp, stamp]
    os.utime(root / "x.bin", ns=(1, 1_000_000_002))
    assert files.file_stamps(["x.bin"], policy) not in ([stamp], [None])
    assert images.read(b"abc", policy).stamp is None


def test_what_cannot_be_read_has_no_stamp(root: Path, policy: images.Policy) -> None:
    (root.parent / "outside.png").touch()
    (root / "link.png").symlink_to(root.parent / "outside.png")
    a_pipe(root / "pipe")
    bad = ["", "none.png", "../outside.png", "link.png", "pipe", ".", "http://host/x.png", "a\0b"]
    assert files.file_stamps(bad, policy) == [None] * len(bad)


# Files that are none --------------------------------------------------------------------


def a_directory(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def a_loop_of_links(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [a_directory, a_pipe, a_socket, a_loop_of_links])
def test_what_is_no_regular_file_is_unreadable(
    root: Path, policy: images.Policy, make: Callable[[Path], None]
) -> None:
    def give_up(*_: object) -> None:
        raise AssertionError("it waited for the other end")

    make(root / "x")
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(2)
    try:
        refusal(errors.ImageUnreadable, "x", policy)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.parametrize("path", [".", "x" * 300 + ".png", "nul\0byte.png", "half\ud800.png"])
def test_a_path_that_can_name_no_file_is_unreadable(policy: images.Policy, path: str) -> None:
    refusal(errors.ImageUnreadable, path, policy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("closed", ["x.png", "."])
def test_a_file_without_permission_is_unreadable(
    root: Path, policy: images.Policy, closed: str
) -> None:
    (root / "x.png").write_bytes(encoded(Image.new("RGB", (2, 2))))
    (root / closed).chmod(0)
    try:
        assert "Permission denied" in refusal(errors.ImageUnreadable, "x.png", policy).message
    finally:
        (root / closed).chmod(0o700)


def test_an_error_while_reading_is_unreadable(
    root: Path, policy: images.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: io.FileIO, limit: int) -> bytes:
        raise OSError(5, "Input/output error")

    (root / "x.png").write_bytes(encoded(Image.new("RGB", (2, 2))))
    monkeypatch.setattr(files, "_read_at_most", fail)
    assert "Input/output" in refusal(errors.ImageUnreadable, "x.png", policy).message


def test_no_handle_is_left_open(root: Path, policy: images.Policy) -> None:
    (root / "good.png").write_bytes(encoded(Image.new("RGB", (2, 2))))
    (root / "bad.png").write_bytes(b"bad")
    (root / "folder").mkdir()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - an open directory counts in both
    images.open_picture("good.png", policy)
    refusal(errors.NotAnImage, "bad.png", policy)
    refusal(errors.ImageUnreadable, "folder", policy)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# Limits ---------------------------------------------------------------------------------


def test_a_file_and_bytes_have_the_same_limit(root: Path) -> None:
    data = encoded(noise())
    (root / "x.png").write_bytes(data)
    exact = images.Policy((str(root),), len(data), PIXELS)
    smaller = images.Policy((str(root),), len(data) - 1, PIXELS)
    for source in ("x.png", data):
        assert images.open_picture(source, exact).size == (64, 64)
        assert str(len(data)) in refusal(errors.ImageTooLarge, source, smaller).message


def test_a_huge_file_is_refused_unread(root: Path, policy: images.Policy) -> None:
    with (root / "x.png").open("wb") as file:
        file.truncate(1 << 40)  # a hole: takes no space
    assert str(1 << 40) in refusal(errors.ImageTooLarge, "x.png", policy).message


def test_a_file_that_grows_while_it_is_read_is_refused(
    root: Path, policy: images.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "x.png").write_bytes(encoded(noise()))
    read_at_most = files._read_at_most

    def grow(file: io.FileIO, limit: int) -> bytes:
        os.truncate(root / "x.png", 2 * BYTES)
        return read_at_most(file, limit)

    monkeypatch.setattr(files, "_read_at_most", grow)
    refusal(errors.ImageTooLarge, "x.png", policy)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    root: Path, policy: images.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reading gets half of the old file and half of the new one."""
    old, new = (encoded(Image.new("RGB", (64, 64), shade), "BMP") for shade in (RED, WHITE))
    (root / "x.bmp").write_bytes(old)
    read_at_most = files._read_at_most
    readings = []

    def change(file: io.FileIO, limit: int) -> bytes:
        readings.append(limit)
        if len(readings) > 1:
            return read_at_most(file, limit)
        begin = read_at_most(file, len(old) // 2)
        (root / "x.bmp").write_bytes(new)
        return begin + read_at_most(file, limit)

    monkeypatch.setattr(files, "_read_at_most", change)
    assert colour(images.open_picture("x.bmp", policy)) == WHITE
    assert len(readings) == 2


@pytest.mark.parametrize("change", ["written", "cut short"])
def test_a_file_that_keeps_changing_is_unreadable(
    root: Path, policy: images.Policy, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    (root / "x.png").write_bytes(encoded(noise()))
    read_at_most = files._read_at_most

    def disturb(file: io.FileIO, limit: int) -> bytes:
        if change == "cut short":
            return read_at_most(file, limit)[:-1]
        data = read_at_most(file, limit)
        (root / "x.png").write_bytes(data)
        os.utime(root / "x.png", ns=(time.time_ns(), time.time_ns()))
        return data

    monkeypatch.setattr(files, "_read_at_most", disturb)
    assert "changes" in refusal(errors.ImageUnreadable, "x.png", policy).message


def progressive_jpeg(width: int, height: int, scans: int) -> bytes:
    """A grey JPEG of many scans that say of a whole picture, in a few bytes each: no change."""

    def segment(kind: int, body: bytes) -> bytes:
        return b"\xff" + bytes([kind]) + struct.pack(">H", len(body) + 2) + body

    head = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64))
    head += segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    head += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")  # one code: a run of blocks
    runs = -(-(-(-width // 8) * -(-height // 8)) // 32767)
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return head + (segment(0xDA, b"\1\1\x10\1\x3f\0") + coded) * scans + b"\xff\xd9"


def test_a_picture_that_takes_too_long_is_given_up() -> None:
    few, many = (progressive_jpeg(4096, 4096, scans) for scans in (2, 50_000))
    policy = images.Policy((), BYTES, 100_000_000, max_seconds=1)
    assert images.open_picture(few, policy).size == (4096, 4096)
    started = time.monotonic()
    assert "max_image_seconds = 1" in refusal(errors.ImageTimeout, many, policy).message
    assert time.monotonic() - started < 5
    refusal(errors.ImageTimeout, many, images.Policy((), BYTES, 100_000_000, max_seconds=0))


def test_whatever_a_decoder_raises_when_its_time_is_over_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(picture: Image.Image, smallest: int | None) -> Image.Image:
        time.sleep(0.3)
        raise SystemError("returned a result with an exception set")

    monkeypatch.setattr(images.colours, "to_rgb", fail)
    policy = images.Policy((), BYTES, PIXELS, max_seconds=0.2)
    refusal(errors.ImageTimeout, encoded(noise()), policy)


def png_of(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size; whoever decodes it finds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1001, 1000), (1500, 1000), (65_000, 65_000)])
def test_a_bomb_is_refused_before_a_pixel_is_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(picture: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    assert str(PIXELS) in refusal(errors.ImageBomb, png_of(*size)).message


def test_a_decoder_that_stops_everything_gets_fewer_pixels() -> None:
    stream = io.BytesIO()
    Image.new("L", (60, 50)).save(stream, "JPEG2000")
    with pytest.raises(errors.ImageBomb, match="allows for JPEG2000, 2999"):
        images.open_picture(stream.getvalue(), images.Policy((), 1 << 20, 4 * 3000 - 1))
    assert images.open_picture(stream.getvalue(), images.Policy((), 1 << 20, 4 * 3000)).size == (
        60,
        50,
    )


def test_a_bomb_inside_an_icon_is_one_too() -> None:
    inner = png_of(65_000, 65_000)
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    refusal(errors.ImageBomb, icon)


def test_as_many_pixels_as_allowed_are_no_bomb() -> None:
    assert opened(encoded(Image.new("1", (1000, 1000)), "PNG")).size == (1000, 1000)


def test_memory_that_runs_out_fails_this_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(picture: Image.Image, smallest: int | None) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(images.colours, "to_rgb", exhaust)
    refusal(errors.ImageBomb, encoded(noise()))


# Data that is none ----------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_half_a_picture_is_truncated(format: str) -> None:  # noqa: A002
    data = encoded(noise(), format)
    kind = errors.ImageTruncated if format in ("JPEG", "PNG", "GIF") else errors.NotAnImage
    refusal(kind, data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"text", bytes(100)])
def test_what_is_no_picture_is_not_an_image(data: bytes) -> None:
    refusal(errors.NotAnImage, data)


def test_an_empty_file_is_not_an_image(root: Path, policy: images.Policy) -> None:
    (root / "x.jpg").touch()
    assert "empty" in refusal(errors.NotAnImage, "x.jpg", policy).message


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 1, 1, 8, 3) + bytes(12) + bytes(5)


@pytest.mark.parametrize(
    "data",
    [EPS, PSD]
    + [encoded(Image.new("RGB", (8, 8)), f) for f in ("PDF", "PCX", "SGI", "DDS", "ICNS")],
    ids=["EPS", "PSD", "PDF", "PCX", "SGI", "DDS", "ICNS"],
)
def test_other_formats_stay_out(data: bytes) -> None:
    error = refusal(errors.NotAnImage, data)
    assert error.hint is not None
    assert "JPEG" in error.hint


def test_what_a_decoder_raises_is_this_pictures_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(picture: Image.Image, smallest: int | None) -> Image.Image:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(images.colours, "to_rgb", fail)
    assert "division by zero" in refusal(errors.NotAnImage, encoded(noise())).message


def test_a_word_among_the_numbers_of_a_plain_ppm_is_told_without_python() -> None:
    error = refusal(errors.NotAnImage, b"P3\n2 1\n255\n255 000 xyz 000 255 000\n")
    assert error.message == "the image data is damaged: a number cannot be read"


# Pictures as people see them ------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_common_formats_in_any_kind_of_bytes(
    format: str,  # noqa: A002
    kind: Callable[[bytes], images.Source],
) -> None:
    picture = images.open_picture(kind(encoded(Image.new("RGB", (9, 5), WHITE), format)), NOWHERE)
    assert picture.size == (9, 5)
    assert colour(picture) == WHITE


UNTURN = {  # what a camera did to the picture, for the tag to undo
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", UNTURN)
def test_every_orientation_gives_the_same_upright_picture(
    orientation: int,
    format: str,  # noqa: A002
) -> None:
    upright = Image.new("RGB", (32, 16), RED)
    upright.paste((0, 255, 0), (0, 0, 16, 16))
    upright.paste((0, 0, 255), (0, 0, 16, 8))
    turn = UNTURN[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = opened(encoded(stored, format, exif=exif))
    assert picture.size == (32, 16)
    difference = np.abs(np.asarray(picture, int) - np.asarray(upright, int))
    assert difference[2:6, 2:14].max() <= 8, "blue is not at the upper left"
    assert difference[10:14, 2:14].max() <= 8, "green is not at the lower left"
    assert difference[2:14, 18:30].max() <= 8, "red is not at the right"


def with_exif(exif: bytes) -> bytes:
    return encoded(Image.new("RGB", (8, 4), WHITE), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0rubbish",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0\0\0\0\0",
    ],
    ids=["empty", "rubbish", "cut-off", "far-away", "orientation-99"],
)
def test_broken_exif_does_not_fail_the_picture(exif: bytes) -> None:
    picture = opened(with_exif(exif))
    assert picture.size == (8, 4)
    assert colour(picture) == WHITE


def test_orientation_that_cannot_be_read_leaves_the_picture_as_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(picture: Image.Image) -> Image.Image:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert opened(encoded(noise(9, 5))).size == (9, 5)


def test_decoders_remarks_reach_nobody() -> None:
    damaged = with_exif(b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        opened(damaged)
        refusal(errors.ImageBomb, png_of(1500, 1000))
    assert heard == []


def palette(transparent: bool) -> bytes:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, *RED])
    return encoded(picture, "PNG", **({"transparency": 1} if transparent else {}))


TRANSPARENT = {
    "RGBA-none": (encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), WHITE),
    "RGBA-half": (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128))), (255, 127, 127)),
    "RGBA-full": (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 255))), RED),
    "LA-none": (encoded(Image.new("LA", (4, 4), (0, 0))), WHITE),
    "LA-half": (encoded(Image.new("LA", (4, 4), (0, 128))), (127, 127, 127)),
    "P-opaque": (palette(transparent=False), RED),
    "P-transparent": (palette(transparent=True), WHITE),
    "L-key": (encoded(Image.new("L", (4, 4), 7), transparency=7), WHITE),
    "RGB-key": (encoded(Image.new("RGB", (4, 4), RED), transparency=RED), WHITE),
    "WEBP": (encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "WEBP", lossless=True), WHITE),
}


@pytest.mark.parametrize(("data", "seen"), TRANSPARENT.values(), ids=TRANSPARENT)
def test_transparency_is_seen_on_white(data: bytes, seen: tuple[int, int, int]) -> None:
    assert colour(opened(data)) == seen


def grey(values: list[int] | list[float], kind: type, format: str = "TIFF") -> bytes:  # noqa: A002
    return encoded(Image.fromarray(np.array([values], dtype=kind)), format)


DEEP = {
    "I;16 PNG": (grey([0, 257, 65278, 65535], np.uint16, "PNG"), [0, 1, 254, 255]),
    "I;16 TIFF": (grey([0, 255, 65278, 65535], np.uint16), [0, 1, 254, 255]),
    "I of 8 bits": (grey([0, 1, 128, 255], np.int32), [0, 1, 128, 255]),
    "I of 16 bits": (grey([-5, 257, 65535, 70000], np.int32), [0, 1, 255, 255]),
    "F of 8 bits": (grey([0.0, 0.6, 128.4, 255.0], np.float32), [0, 1, 128, 255]),
    "F of 16 bits": (grey([0.0, 257.0, 32896.0, 65535.0], np.float32), [0, 1, 128, 255]),
    "F not finite": (grey([np.nan, np.inf, -np.inf, 200.0], np.float32), [0, 0, 0, 200]),
}


@pytest.mark.parametrize(("data", "seen"), DEEP.values(), ids=DEEP)
def test_deep_grey_is_scaled_to_eight_bits(data: bytes, seen: list[int]) -> None:
    picture = opened(data)
    assert picture.mode == "RGB"
    pixels = np.asarray(picture)[0]
    assert pixels[:, 0].tolist() == seen
    assert (pixels == pixels[:, :1]).all()


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_one_bit(bit: int, format: str) -> None:  # noqa: A002
    assert colour(opened(encoded(Image.new("1", (9, 3), bit), format))) == (255 * bit,) * 3


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format: str) -> None:  # noqa: A002
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(np.subtract(colour(opened(encoded(red, format))), RED)).max() <= 3


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(format: str) -> None:  # noqa: A002
    first, *others = (Image.new("RGB", (8, 8), shade) for shade in ("red", "lime", "blue"))
    data = encoded(first, format, save_all=True, append_images=others)
    with Image.open(io.BytesIO(data)) as animation:
        assert animation.n_frames == 3
    assert np.abs(np.subtract(colour(opened(data)), RED)).max() <= 3


def test_a_picture_is_decoded_as_pillow_decodes_it() -> None:
    data = encoded(noise(), "JPEG")
    with Image.open(io.BytesIO(data)) as reference:
        assert opened(data).tobytes() == reference.tobytes()


# Real oddities --------------------------------------------------------------------------


@pytest.mark.data
def test_odd_pictures_give_a_picture_or_an_image_error_quickly(test_data: Path) -> None:
    folder = test_data / "odd-images"
    entries = json.loads((folder / "manifest.json").read_text())
    manifest = {entry["file"]: entry for entry in entries}
    policy = images.Policy((str(folder),), 10_000_000, 50_000_000)
    refused: dict[str, errors.ImageError] = {}
    sizes: dict[str, tuple[int, int]] = {}
    started = time.monotonic()
    for file in sorted(folder.iterdir()):
        try:
            picture = images.open_picture(file.name, policy)
        except errors.ImageError as error:
            refused[file.name] = error
        else:
            assert picture.mode == "RGB"
            sizes[file.name] = picture.size
    assert time.monotonic() - started < 10
    assert {type(error) for error in refused.values()} <= CODES.keys()
    assert len(refused) + len(sizes) > 150

    readable = {
        name
        for name, entry in manifest.items()
        if entry["pillow_13"] == "ok" and entry["format"] in images.FORMATS
    }
    readable.remove("apng__chunk_no_fctl.png")  # Pillow reads its first frame, then objects
    assert len(readable) > 50
    assert {name: refused[name].message for name in readable & refused.keys()} == {}
    for name in readable:
        assert sorted(sizes[name]) == sorted(manifest[name]["size"]), name
    known = (*images.FORMATS, "MPO", None)  # None: not even Pillow says what it is
    foreign = {name for name, entry in manifest.items() if entry["format"] not in known}
    assert {refused[name].code for name in foreign} == {"not_an_image"}
