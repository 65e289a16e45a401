"""Pictures are prepared by hand as transformers prepares them, or by transformers itself."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visrec_db.encoders import hardware, preprocess
from visrec_db.pictures import images

transformers = pytest.importorskip("transformers")

SHAPES = [
    (500, 375), (375, 500), (400, 533), (224, 224), (225, 224), (1000, 223), (37, 1201), (1, 1),
    (3, 2), (449, 447),
]  # fmt: skip
POLICY = images.Policy(roots=(), max_bytes=100_000_000, max_pixels=100_000_000)


def noise(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * 7919 + height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def by_library(processor: Any, picture: Image.Image) -> np.ndarray:
    return np.asarray(processor(images=picture, return_tensors="np")["pixel_values"][0])


def settings_of(processor: Any) -> preprocess.Settings | None:
    return preprocess.settings_of(
        processor.to_dict(), lambda picture: by_library(processor, picture)
    )


KNOWN = {
    "clip": transformers.CLIPImageProcessorPil,
    "clip of 336": lambda: transformers.CLIPImageProcessorPil(size=336, crop_size=336),
    "as old files say it": lambda: transformers.CLIPImageProcessorPil(
        **{"size": 224, "crop_size": 224, "resample": 3, "feature_extractor_type": "x"}
    ),
    "vit": transformers.ViTImageProcessorPil,
    "siglip": transformers.SiglipImageProcessorPil,
    "dino": lambda: transformers.BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
    ),
    "not square": lambda: transformers.ViTImageProcessorPil(size={"height": 64, "width": 96}),
    "not normalised": lambda: transformers.CLIPImageProcessorPil(do_normalize=False),
}
UNKNOWN = {
    "padded": lambda: transformers.CLIPImageProcessorPil(size={"shortest_edge": 100}),
    "of any shape": lambda: transformers.CLIPImageProcessorPil(do_center_crop=False),
    "not resized": lambda: transformers.CLIPImageProcessorPil(do_resize=False),
    "longest side": lambda: transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 224, "longest_edge": 300}
    ),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_pixels_are_the_librarys(kind: str) -> None:
    processor = KNOWN[kind]()
    settings = settings_of(processor)
    assert settings is not None
    level = settings.scale / np.min(settings.std)  # what one of 256 levels becomes
    for shape in SHAPES:
        picture = noise(*shape)
        prepared = settings.prepare(picture)
        assert (prepared.shape, prepared.dtype) == ((*settings.size, 3), np.uint8)
        ours = settings.normalised(prepared)
        difference = np.abs(ours - by_library(processor, picture).transpose(1, 2, 0))
        assert difference.max() <= 1.01 * level, shape
        assert (difference > level / 2).mean() < 0.01, shape


def test_a_strip_is_not_enlarged_to_its_full_length() -> None:
    """Which would be 224 × 5,600,000 pixels."""
    settings = settings_of(transformers.CLIPImageProcessorPil())
    assert settings is not None
    started = time.monotonic()
    assert settings.prepare(noise(1, 25_000)).shape == (224, 224, 3)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_not_known_is_left_to_the_library(kind: str) -> None:
    assert settings_of(UNKNOWN[kind]()) is None


def test_settings_that_do_more_than_they_say_are_not_believed() -> None:
    """As a library would that turns channels round: its own numbers decide."""
    processor = transformers.CLIPImageProcessorPil()
    turned = preprocess.settings_of(
        processor.to_dict(), lambda picture: by_library(processor, picture)[::-1]
    )
    assert turned is None


@pytest.mark.parametrize("options", [{}, {"do_resize": True, "size": 224}, {"do_resize": True}])
def test_options_of_another_shape_are_not_known(options: dict[str, Any]) -> None:
    assert preprocess.settings_of(options, lambda picture: np.zeros((3, 1, 1))) is None


# Decoding at reduced scale ----------------------------------------------------------------


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, options.pop("format", "JPEG"), quality=95, **options)
    return data.getvalue()


def smooth(width: int, height: int, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(2)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return picture.convert(mode)


@pytest.mark.parametrize(
    ("size", "smallest", "decoded"),
    [
        ((1600, 1200), None, (1600, 1200)),
        ((1600, 1200), 601, (1600, 1200)),
        ((1600, 1200), 600, (800, 600)),
        ((1200, 1600), 448, (600, 800)),
        ((1600, 1200), 300, (400, 300)),
        ((1600, 1200), 10, (200, 150)),
        ((400, 300), 448, (400, 300)),
    ],
)
def test_a_jpeg_keeps_at_least_the_pixels_that_are_asked_for(
    size: tuple[int, int], smallest: int | None, decoded: tuple[int, int]
) -> None:
    assert images.open_picture(jpeg(smooth(*size)), POLICY, smallest).size == decoded


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_a_jpeg_at_reduced_scale_is_the_same_picture(mode: str, options: dict[str, Any]) -> None:
    data = jpeg(smooth(1600, 1200, mode), **options)
    small = images.open_picture(data, POLICY, 300)
    full = images.open_picture(data, POLICY).resize(small.size, Image.Resampling.BOX)
    assert small.mode == "RGB"
    assert np.abs(np.asarray(small, int) - np.asarray(full, int)).mean() < 2


def test_a_turned_jpeg_at_reduced_scale_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(smooth(1600, 1200), exif=exif)
    small = images.open_picture(data, POLICY, 300)
    full = images.open_picture(data, POLICY)
    assert (full.size, small.size) == ((1200, 1600), (300, 400))
    expected = full.resize(small.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(small, int) - np.asarray(expected, int)).mean() < 2


def test_a_cameras_double_picture_is_scaled_too() -> None:
    data = jpeg(smooth(800, 600), format="MPO", save_all=True, append_images=[smooth(800, 600)])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "MPO"
    assert images.open_picture(data, POLICY, 100).size == (200, 150)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_in_full(format: str) -> None:  # noqa: A002
    data = jpeg(smooth(800, 600), format=format)
    assert images.open_picture(data, POLICY, 100).size == (800, 600)


def test_the_limit_on_pixels_is_for_the_whole_picture() -> None:
    policy = images.Policy(roots=(), max_bytes=10_000_000, max_pixels=1600 * 1200 - 1)
    with pytest.raises(images.errors.ImageBomb):
        images.open_picture(jpeg(smooth(1600, 1200)), policy, 100)


# What the machine can do ------------------------------------------------------------------


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("", False),
    ],
)
def test_bfloat16_is_found_in_the_processors_flags(tmp_path: Path, flags: str, has: bool) -> None:
    text = f"processor\t: 0\n{flags}\nbugs\t\t: none\n"
    assert hardware.has_bf16(machine(tmp_path, {"proc/cpuinfo": text})) is has


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags\t\t: fpu avx2", False),
        ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags\t\t: fpu avx512f avx512_vnni avx512_bf16", True),
        ("Features\t: fp asimd asimddp", True),
    ],
)
def test_eight_bit_units_are_found_and_can_be_masked(
    tmp_path: Path, flags: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine(tmp_path, {"proc/cpuinfo": f"{flags}\n"})
    assert hardware.has_int8(root) is has
    before = hardware.processor(root)
    assert hardware.processor(root) == before
    monkeypatch.setattr(hardware, "MASKED", hardware.INT8)
    assert not hardware.has_int8(root)
    assert (hardware.processor(root) == before) is not has  # what was measured holds no longer


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/gone\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
    ],
)
def test_processors_are_those_of_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int
) -> None:
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(64)))
    assert hardware.cpus(machine(tmp_path, files)) == limit


def test_processors_are_those_this_process_may_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: {3})
    assert hardware.cpus(tmp_path) == 1
