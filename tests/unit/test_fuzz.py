"""Damaged pictures of every format: each gives a picture or an ``ImageError``, soon."""

from __future__ import annotations

import io
import time

from PIL import Image

from tests.soak import fuzz
from visrec_db import errors
from visrec_db.pictures import images


def test_each_gives_a_picture_or_an_image_error_and_soon() -> None:
    outcomes = set()
    for name, data in fuzz.mutants(seed=3, count=300):
        started = time.monotonic()
        try:
            picture = images.open_picture(data, fuzz.POLICY)
        except errors.ImageError as error:
            outcomes.add(error.code)
        except BaseException as error:
            raise AssertionError(f"{name}: {error!r}") from error
        else:
            outcomes.add("a picture")
            assert picture.mode == "RGB", name
        assert time.monotonic() - started < 5, name
    assert outcomes >= {"a picture", "truncated", "not_an_image"}


def test_what_is_damaged_is_good_before() -> None:
    written = fuzz.written_pictures()
    assert len(written) > 25
    formats = set()
    for name, data in written.items():
        assert images.open_picture(data, fuzz.POLICY).size != (0, 0), name
        with Image.open(io.BytesIO(data)) as picture:
            formats.add(picture.format)
    assert formats >= set(images.FORMATS)


def test_the_same_seed_gives_the_same_mutants() -> None:
    first, again, other = (list(fuzz.mutants(seed, 200)) for seed in (1, 1, 2))
    assert first == again
    assert sum(one != two for one, two in zip(first, other, strict=True)) > 150


def test_the_soak_accounts_for_each() -> None:
    said: list[str] = []
    report = fuzz.run(60, say=said.append)
    assert report.tried == report.vectors + sum(report.failures.values()) == 60
    assert report.wrong == []
