"""The demo's pictures: how many, of what, drawn the same again, and small."""

import hashlib
import itertools
import pathlib
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import draw_pictures

COUNT = 2 * len(draw_pictures.CATEGORIES)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    return draw_pictures.draw_all(tmp_path_factory.mktemp("pictures"), COUNT, seed=7)


def digests(paths: list[pathlib.Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_the_pictures_are_spread_evenly_over_twelve_categories(drawn: list[pathlib.Path]) -> None:
    assert len(draw_pictures.CATEGORIES) == 12
    spread = Counter(path.parent.name for path in drawn)
    assert spread == dict.fromkeys(draw_pictures.CATEGORIES, 2)
    assert sorted(drawn[0].parents[1].rglob("*.*")) == sorted(drawn)


def test_a_count_that_does_not_divide_is_still_met(tmp_path: pathlib.Path) -> None:
    assert len(set(draw_pictures.draw_all(tmp_path, count=5))) == 5
    assert len(list(tmp_path.rglob("*.jpg"))) == 5


def test_a_name_tells_number_colour_and_pattern(drawn: list[pathlib.Path]) -> None:
    for path in drawn:
        number, colour, pattern = path.stem.split("-", 2)
        assert number in {"000", "001"}
        assert colour in draw_pictures.COLOURS
        assert pattern in draw_pictures.PATTERNS


def test_the_files_are_small_rgb_jpegs(drawn: list[pathlib.Path]) -> None:
    for path in drawn:
        assert path.stat().st_size < 60_000
        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert all(180 <= side <= 450 for side in picture.size)


def test_the_same_seed_writes_the_same_files(
    drawn: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    again = draw_pictures.draw_all(tmp_path, 12, seed=7)
    assert [path.name for path in again] == [path.name for path in drawn[:12]]
    assert digests(again) == digests(drawn[:12])


def test_another_seed_draws_other_pictures(
    drawn: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    other = draw_pictures.draw_all(tmp_path, 12, seed=8)
    assert not set(digests(other)) & set(digests(drawn))


def test_pictures_of_one_category_differ_visibly(drawn: list[pathlib.Path]) -> None:
    for one, other in itertools.combinations(drawn, 2):
        if one.parent == other.parent:
            small = [np.asarray(Image.open(p).resize((64, 64)), float) for p in (one, other)]
            assert abs(small[0] - small[1]).mean() > 4, (one.name, other.name)


@pytest.mark.parametrize("category", draw_pictures.CATEGORIES)
def test_an_object_is_there_and_whole(category: str) -> None:
    picture = draw_pictures.draw(category, random.Random(3))
    pixels = np.asarray(picture, float)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert picture.mode == "RGB"
    assert border.std(axis=0).max() < 15  # background alone: nothing is cut off
    assert pixels.std(axis=(0, 1)).max() > 20


def test_the_command_line_draws_into_the_directory(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, draw_pictures.__file__, str(tmp_path / "new"), "--count", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "drew 3 pictures\n"
    assert len(list((tmp_path / "new").rglob("*.jpg"))) == 3


def test_each_picture_is_told_as_it_is_done(tmp_path: pathlib.Path) -> None:
    there: list[int] = []
    draw_pictures.draw_all(tmp_path, 3, each=lambda: there.append(len([*tmp_path.rglob("*.jpg")])))
    assert there == [1, 2, 3]
