"""visrec.duplicates: the same file, the same picture saved anew, pictures that are merely alike."""

import shutil

import psycopg
import pytest
from PIL import Image

from .conftest import coverage


@pytest.fixture
def saved(posts, pictures, paths, images):
    """Row 1 and 2: one file, copied; 3: the same picture, smaller and coarser; then others."""
    first = Image.open(pictures / paths[0])
    shutil.copy(pictures / paths[0], images / "copy.jpg")
    first.resize((first.width * 3 // 4, first.height * 3 // 4)).save(images / "small.jpg", quality=60)
    first.save(images / "plain.png")
    shutil.copy(pictures / paths[1], images / "soon-damaged.jpg")
    rows = [
        paths[0],
        *(f"{images.name}/{name}" for name in ("copy.jpg", "small.jpg", "plain.png")),
        f"{images.name}/soon-damaged.jpg",
        *paths[1:9],
    ]
    posts.cursor().executemany(
        "INSERT INTO posts (id, image_path) VALUES (%s, %s)", list(enumerate(rows, start=1))
    )
    assert coverage(posts) == {"embedded": len(rows)}
    return posts


def kinds(connection, *arguments):
    rows = connection.execute(
        "SELECT id_a::int, id_b::int, kind, similarity, percentile FROM visrec.duplicates('posts'"
        + "".join(f", {argument}" for argument in arguments)
        + ")"
    ).fetchall()
    assert all(a < b for a, b, *_ in rows)
    assert len({row[:2] for row in rows}) == len(rows)
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)
    assert all(0 <= row[4] <= 100 for row in rows)
    return {row[:2]: row[2] for row in rows}


def test_the_same_file_the_same_picture_and_alike(saved):
    found = kinds(saved, 10, 0.5)
    assert found[1, 2] == "exact"
    assert {found[1, 3], found[2, 3], found[1, 4]} == {"near"}
    assert "similar" in found.values()
    assert set(kinds(saved, 10, 0.0001)) <= {(1, 2), (1, 4), (2, 4), (5, 6)}


def test_a_damaged_or_missing_picture_harms_no_other(saved, images):
    assert kinds(saved)[5, 6] == "exact"
    (images / "soon-damaged.jpg").write_bytes(b"no picture any more")
    (images / "small.jpg").unlink()
    found = kinds(saved)
    assert (found[5, 6], found[1, 3], found[1, 2]) == ("similar", "similar", "exact")


def test_images_in_rows(posts, pictures, paths):
    posts.execute("CREATE TABLE raw (id text PRIMARY KEY, image bytea)")
    posts.execute("SELECT visrec.attach('raw', image_column => 'image', model => 'pixels')")
    for name, path in (("a", paths[0]), ("b", paths[0]), ("c", paths[1])):
        posts.execute("INSERT INTO raw VALUES (%s, %s)", (name, (pictures / path).read_bytes()))
    [first, *_] = posts.execute("SELECT id_a, id_b, kind FROM visrec.duplicates('raw')").fetchall()
    assert first == ("a", "b", "exact")


def test_nothing_to_compare(posts):
    assert posts.execute("SELECT * FROM visrec.duplicates('posts')").fetchall() == []


@pytest.mark.parametrize("arguments", ["0", "5, -1", "NULL"])
def test_bad_arguments(posts, arguments):
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        posts.execute(f"SELECT * FROM visrec.duplicates('posts', {arguments})")
