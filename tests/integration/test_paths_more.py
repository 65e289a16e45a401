"""Paths that are no files, links that lead out, and images larger than is allowed."""

import os
from pathlib import Path

import psycopg
import pytest

from .conftest import coverage, insert, notices

URLS = [
    "https://example.org/x.jpg",
    "http://127.0.0.1:1/x.jpg",
    "HTTPS://EXAMPLE.ORG/",
    "file:///etc/hostname",
    "s3://bucket/key.jpg",
    "data+x://,",
]


@pytest.mark.parametrize("url", URLS)
def test_urls_are_not_fetched_yet(posts, url):
    insert(posts, [url])
    [(code, message)] = posts.execute("SELECT code, message FROM failures_posts()").fetchall()
    assert (code, message) == ("unreadable", "images are not fetched from URLs yet")
    with pytest.raises(psycopg.errors.IoError) as raised:
        posts.execute("SELECT visrec.embed_image(%s, 'pixels')", (url,))
    assert raised.value.diag.message_hint == "The image must be a file under image_roots."


def test_an_empty_path_is_no_image(posts, paths):
    """As Django stores it: no failure, no WARNING; and the vector goes with the path."""
    heard = notices(posts)
    insert(posts, ["", paths[0], ""])
    assert heard == []
    assert coverage(posts) == {"embedded": 1, "no_image": 2}
    posts.execute("UPDATE posts SET image_path = '' WHERE id = 2")
    assert coverage(posts) == {"no_image": 3}
    posts.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[1],))
    posts.execute("UPDATE posts SET image_path = 'nowhere' WHERE id = 2")
    assert coverage(posts) == {"embedded": 1, "failed": 1, "no_image": 1}
    posts.execute("UPDATE posts SET image_path = '' WHERE id = 2")
    assert coverage(posts) == {"embedded": 1, "no_image": 2}
    assert posts.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)
    posts.execute("ALTER TABLE posts DISABLE TRIGGER USER")
    posts.execute("UPDATE posts SET image_path = ''")
    posts.execute("ALTER TABLE posts ENABLE TRIGGER USER")
    posts.execute("CALL visrec.backfill('posts')")
    assert coverage(posts) == {"no_image": 3}
    assert posts.execute("SELECT count(content_vector) FROM posts").fetchone() == (0,)


def test_empty_bytes_are_no_image(db, pictures, paths):
    """As Django's BinaryField stores it."""
    picture = (pictures / paths[0]).read_bytes()
    db.execute("CREATE TABLE raw (id int PRIMARY KEY, image bytea)")
    db.execute("SELECT visrec.attach('raw', image_column => 'image', model => 'pixels')")
    heard = notices(db)
    db.execute("INSERT INTO raw VALUES (1, ''), (2, NULL), (3, %s), (4, %s)", (picture, picture))
    assert heard == []
    assert coverage(db, "raw") == {"no_image": 2, "embedded": 2}
    db.execute("UPDATE raw SET image = '' WHERE id = 3")
    assert coverage(db, "raw") == {"no_image": 3, "embedded": 1}
    db.execute("UPDATE raw SET image = 'x' WHERE id = 2")
    assert coverage(db, "raw") == {"no_image": 2, "embedded": 1, "failed": 1}
    db.execute("UPDATE raw SET image = '' WHERE id = 2")
    db.execute("ALTER TABLE raw DISABLE TRIGGER USER")
    db.execute("UPDATE raw SET image = ''")
    db.execute("ALTER TABLE raw ENABLE TRIGGER USER")
    db.execute("SELECT visrec.recheck('raw')")
    db.execute("CALL visrec.backfill('raw')")
    assert coverage(db, "raw") == {"no_image": 4}
    assert db.execute("SELECT count(content_vector) FROM raw").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)


def told(posts, path):
    """What a role that may embed is told of a path: code and reason."""
    with pytest.raises(psycopg.Error) as raised:
        posts.execute("SELECT visrec.embed_image(%s, 'pixels')", (path,))
    diag = raised.value.diag
    assert diag.message_primary == f'could not embed image "{path}"'
    return diag.sqlstate, diag.message_detail


def test_a_link_out_of_the_roots_does_not_tell_what_is_there(posts, images, tmp_path_factory):
    """The same answer whether a file, a directory or nothing is behind it, readable or not."""
    outside = Path("/etc")
    there = ["hostname", "passwd", "shadow", "ssl", "passwd/x", "ssl/certs", "."]
    absent = ["no-such-file", "no-such-directory/x", "passwd/x/y"]
    (images / "out").symlink_to(outside)
    (images / "root").symlink_to("/")
    for n, name in enumerate([*there, *absent]):
        (images / f"link{n}").symlink_to(outside / name)
    answers = {
        *(told(posts, f"{images.name}/out/{name}") for name in [*there, *absent]),
        *(told(posts, f"{images.name}/root/etc/{name}") for name in [*there, *absent]),
        *(told(posts, f"{images}/link{n}") for n in range(len(there) + len(absent))),
    }
    assert answers == {("42501", "The path is a link that leads out of image_roots.")}


def test_links_within_the_roots_lead_where_they_should(posts, images, pictures, paths):
    (images / "picture.jpg").symlink_to(pictures / paths[0])
    (images / "folder").symlink_to(pictures)
    (images / "loop").symlink_to(images / "loop")
    (images / "dangling").symlink_to(images / "nothing")
    name = images.name
    insert(posts, [paths[0], f"{name}/picture.jpg", f"{name}/folder/{paths[0]}",
                   f"{name}/loop", f"{name}/dangling"])  # fmt: skip
    assert coverage(posts) == {"embedded": 3, "failed": 2}
    codes = posts.execute("SELECT id, code FROM failures_posts() ORDER BY id").fetchall()
    assert codes == [(4, "unreadable"), (5, "missing")]
    assert posts.execute("SELECT count(DISTINCT content_vector) FROM posts").fetchone() == (1,)


def memory(pid, what):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) // 1024
    raise LookupError(what)


@pytest.fixture
def encoder(posts, paths):
    """The process id of the encoder, which has worked already; in it nothing else runs."""
    insert(posts, paths[:1], first=900)
    [(pid,)] = posts.execute("SELECT DISTINCT pid FROM visrec.encoder_status()").fetchall()
    if not os.access(f"/proc/{pid}/status", os.R_OK):
        pytest.skip("the encoder's memory cannot be read by this user")
    return pid


@pytest.mark.parametrize(
    ("limit", "code"), [(1_000_000, "too_large"), (67_108_864, "not_an_image")]
)
def test_large_bytes_leave_no_memory_in_the_encoder(posts, encoder, limit, code):
    """Those over the limit are not even sent; those under it are given back."""
    posts.execute("SELECT visrec.set('max_image_bytes', %s)", (str(limit),))
    posts.execute("CREATE TABLE raw (id int PRIMARY KEY, image bytea)")
    posts.execute("ALTER TABLE raw ALTER image SET STORAGE EXTERNAL")
    posts.execute("SELECT visrec.attach('raw', image_column => 'image', model => 'pixels')")
    before, peak = memory(encoder, "VmRSS"), memory(encoder, "VmHWM")
    posts.execute(
        "INSERT INTO raw SELECT n, decode(repeat('00', 60000000), 'hex')"
        " FROM generate_series(1, 6) AS n"
    )
    assert posts.execute("SELECT DISTINCT code FROM failures_raw()").fetchall() == [(code,)]
    assert coverage(posts, "raw") == {"failed": 6}
    posts.execute("SELECT pid FROM visrec.encoder_status()")
    assert memory(encoder, "VmRSS") - before < 50
    if code == "too_large":
        assert memory(encoder, "VmHWM") - peak < 20
