"""The demo from its command line: on pictures and names of all kinds, without a network."""

import os
import random
import subprocess
import sys

import psycopg
import pytest
from PIL import Image

import draw_pictures
from choose_model import CLIP, INSTALLED
from tests.conftest import REPOSITORY

NAMES = ('it\'s a "hat" & <b>.PNG', "naïve картина 日本.webp", "two\nlines.gif", "%s {0} \\ $x.tif")


@pytest.fixture
def demo(shared, tmp_path):
    """Runs the demo with arguments; its database goes when the test ends."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "demo/run.py", "--output", tmp_path / "out", *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": "python:demo", "VISREC_KEPT_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    yield run
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS visrec_demo WITH (FORCE)")


@pytest.fixture
def folder(images):
    """Three folders, of which one lies in another, with pictures of many kinds."""
    folder = images / 'it\'s "mine"'
    for number, (category, place) in enumerate(
        (("hat", "hats & <caps>"), ("mug", "Größe"), ("boot", "Größe/deeper"))
    ):
        (folder / place).mkdir(parents=True)
        for seed, name in enumerate(NAMES):
            picture = draw_pictures.draw(category, random.Random(10 * number + seed))
            picture.save(folder / place / name)
    Image.new("RGB", (3, 900), "red").save(folder / "thin, in no folder.bmp")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "no picture.jpg").write_text("no picture")
    return folder


def test_it_writes_a_sheet_and_a_page_of_pictures_with_any_name(demo, folder, tmp_path):
    done = demo("--model", "pixels", "--images", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert "inserting 14 rows with the model pixels" in done.stdout
    assert "without a vector: 1 not_an_image" in done.stdout
    assert str(tmp_path / "out/contact-sheet.png") in done.stdout
    assert (tmp_path / "out/index.html").as_uri() in done.stdout
    with Image.open(tmp_path / "out/contact-sheet.png") as sheet:
        assert (sheet.format, sheet.width) == ("PNG", 1400)
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert page.count("<table>") == 3  # one for each folder
    assert "hats &amp; &lt;caps&gt;" in page
    assert "13 pictures, model pixels" in page

    again = demo("--model", "pixels", "--images", str(folder))
    assert "14 rows with the model pixels: there from the last run" in again.stdout


def test_other_pictures_of_the_same_names_get_vectors_of_their_own(demo, images):
    for place, colour in (("one", "red"), ("other", "blue")):
        (images / place).mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (30, 30), colour).save(images / place / name)
        done = demo("--model", "pixels", "--images", str(images / place))
        assert "inserting 2 rows" in done.stdout


def test_what_the_server_cannot_take_as_a_root_is_copied(demo, images):
    folder = images / "a:b"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 30), "red").save(folder / name)
    done = demo("--model", "pixels", "--images", str(folder))
    assert done.returncode == 0
    assert "copying 1 MB to" in done.stdout
    assert "without a vector" not in done.stdout


def test_without_two_pictures_it_says_what_to_do(demo, images):
    done = demo("--model", "pixels", "--images", str(images))
    assert done.returncode == 1
    assert f"error: no pictures in {images}\n  fix: " in done.stderr
    Image.new("RGB", (30, 30), "red").save(images / "one.png")
    done = demo("--model", "pixels", "--images", str(images))
    assert done.returncode == 1
    assert "error: no two pictures have vectors\n  fix: " in done.stderr


def test_where_clip_cannot_be_had_it_says_so_and_takes_pixels(demo, folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    if (INSTALLED / CLIP).is_dir():
        pytest.skip("CLIP is on this machine")
    done = demo("--images", str(folder))
    assert done.returncode == 0
    assert "cannot be fetched" in done.stderr
    assert "The model is `pixels`" in done.stdout
    assert "make demo MODEL=DIRECTORY/clip-ViT-B-32" in done.stdout
    done = demo("--images", str(folder), "--model", "owner/unknown")
    assert done.returncode == 1
    assert (
        "error: the model owner/unknown is not here and cannot be fetched\n  fix: " in done.stderr
    )
