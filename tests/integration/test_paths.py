"""Images given by their paths: what is read, and what becomes of rows whose image is not."""

import os

import psycopg
import pytest
from PIL import Image

from .conftest import coverage, insert, notices


def test_a_row_has_its_vector_when_the_insert_returns(posts, paths):
    insert(posts, paths)
    assert coverage(posts) == {"embedded": len(paths)}
    [(dimensions, norm)] = posts.execute(
        "SELECT DISTINCT vector_dims(content_vector),"
        " round(vector_norm(content_vector)::numeric, 5) FROM posts"
    ).fetchall()
    assert (dimensions, norm) == (512, 1)


def test_pictures_of_a_kind_come_first(posts, paths):
    insert(posts, paths)
    [(share,)] = posts.execute(
        "SELECT avg((o.category = p.category)::int)::float FROM posts AS p,"
        " similar_posts(p.id, 3) AS s JOIN posts AS o ON o.id = s.id"
    ).fetchall()
    assert share > 0.5  # by chance 3 in 47


@pytest.fixture
def bad_images(images, pictures, paths):
    """Paths that give no vector, and the code each has."""
    (images / "text.jpg").write_text("not a picture")
    (images / "empty.jpg").touch()
    (images / "directory.jpg").mkdir()
    os.mkfifo(images / "pipe.jpg")
    (images / "truncated.jpg").write_bytes((pictures / paths[0]).read_bytes()[:2000])
    (images / "link.jpg").symlink_to("/etc/passwd")
    Image.new("L", (3000, 3000)).save(images / "many-pixels.png")
    with (images / "large.jpg").open("wb") as file:
        file.truncate(5_000_000)
    for file in images.iterdir():
        if file.is_file() and not file.is_symlink():
            file.chmod(0o644)
    return {
        "nowhere.jpg": "missing",
        "../../etc/passwd": "outside_roots",
        "/etc/passwd": "outside_roots",
        f"{images}/../x.jpg": "outside_roots",
        f"{images.name}/link.jpg": "outside_roots",
        f"{images.name}/directory.jpg": "unreadable",
        f"{images.name}/pipe.jpg": "unreadable",
        "x" * 1_000: "unreadable",
        "x" * 100_000: "missing",
        f"file://{images}/text.jpg": "unreadable",
        f"{images.name}/large.jpg": "too_large",
        f"{images.name}/many-pixels.png": "bomb",
        f"{images.name}/truncated.jpg": "truncated",
        f"{images.name}/text.jpg": "not_an_image",
        f"{images}/empty.jpg": "not_an_image",
    }


@pytest.fixture
def small_limits(db):
    db.execute("SELECT visrec.set('max_image_bytes', '4000000')")
    db.execute("SELECT visrec.set('max_image_pixels', '4000000')")


def test_a_bad_image_harms_its_own_row_alone(posts, paths, bad_images, small_limits):
    warnings = notices(posts)
    insert(posts, [paths[0], *bad_images, paths[1]])
    assert coverage(posts) == {"embedded": 2, "failed": len(bad_images)}
    recorded = posts.execute(
        "SELECT p.image_path, f.code, f.image FROM visrec.failure AS f"
        " JOIN posts AS p ON p.id::text = f.row_id WHERE f.relation = 'posts'::regclass"
    ).fetchall()
    assert {path: code for path, code, _ in recorded} == bad_images
    assert all(
        path.startswith(image.rstrip("…")) and len(image) <= 500 for path, _, image in recorded
    )
    [(severity, message, hint)] = warnings
    assert severity == "WARNING"
    assert message.startswith(f"{len(bad_images)} of {len(bad_images) + 2} images")
    assert "visrec.failure" in hint


CLASSES = {
    "missing": psycopg.errors.UndefinedFile,
    "outside_roots": psycopg.errors.InsufficientPrivilege,
    "unreadable": psycopg.errors.IoError,
    "too_large": psycopg.errors.ProgramLimitExceeded,
    "bomb": psycopg.errors.ProgramLimitExceeded,
    "truncated": psycopg.errors.InvalidBinaryRepresentation,
    "not_an_image": psycopg.errors.InvalidBinaryRepresentation,
}


def test_raise_fails_the_statement_with_path_and_reason(posts, paths, bad_images, small_limits):
    posts.execute("SELECT visrec.attach('posts', model => 'pixels', on_error => 'raise')")
    for path, code in bad_images.items():
        with pytest.raises(CLASSES[code]) as raised:
            insert(posts, [paths[0], path])
        diagnostic = raised.value.diag
        assert diagnostic.message_primary.startswith("could not embed the image of row 2 of table")
        assert diagnostic.message_detail.startswith(f'Image "{path[:400]}')
    assert posts.execute("SELECT count(*) FROM posts").fetchone() == (0,)
    assert posts.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)


def test_an_empty_path_is_no_image(posts, paths):
    """Django never stores NULL in such a column."""
    heard = notices(posts)
    insert(posts, [paths[0], "", paths[1]])
    assert coverage(posts) == {"embedded": 2, "no_image": 1}
    posts.execute("UPDATE posts SET image_path = '' WHERE id = 1")
    posts.execute("UPDATE posts SET image_path = %s WHERE id = 2", (paths[2],))
    posts.execute("CALL visrec.backfill('posts')")
    assert coverage(posts) == {"embedded": 2, "no_image": 1}
    assert [message for severity, message, _ in heard if severity == "WARNING"] == []
    assert posts.execute("SELECT id FROM similar_posts(1)").fetchall() == []


def test_a_failure_heals_when_the_file_comes(posts, images, pictures, paths):
    path = f"{images.name}/later.jpg"
    insert(posts, [path])
    assert coverage(posts) == {"failed": 1}
    (images / "later.jpg").write_bytes((pictures / paths[0]).read_bytes())
    assert posts.execute("SELECT visrec.retry('posts')").fetchone() == (1,)
    assert coverage(posts) == {"embedded": 1}


def test_absolute_and_relative_paths_give_the_same_vector(posts, pictures, paths):
    insert(posts, [paths[0], str(pictures / paths[0])])
    [(similarity,)] = posts.execute("SELECT similarity FROM similar_posts(1, 1)").fetchall()
    assert similarity == pytest.approx(1)


def test_the_same_picture_by_path_and_by_bytes(posts, pictures, paths):
    [(same,)] = posts.execute(
        "SELECT visrec.embed_image(%s::text, 'pixels') = visrec.embed_image(%s::bytea, 'pixels')",
        (paths[0], (pictures / paths[0]).read_bytes()),
    ).fetchall()
    assert same is True
