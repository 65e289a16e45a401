"""visrec.duplicates on files: copies, pictures saved again, and files that went bad meanwhile."""

import ctypes
import os
import random
import shutil
import struct
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from PIL import Image

import draw_pictures

from .conftest import insert

SAVED_AGAIN = {"quality": (80, 1.0), "small": (60, 0.5), "poor": (30, 0.35), "large": (75, 1.5)}


@pytest.fixture
def catalogue(posts, images, paths, pictures):
    """``posts`` with drawn pictures (1 to 24) and files of its own: what each id is."""
    insert(posts, paths[:24])
    rng = random.Random("duplicates")
    original = draw_pictures.draw("mug", rng)
    original.save(images / "original.jpg", quality=90)
    shutil.copy(images / "original.jpg", images / "copied.jpg")
    (images / "link.jpg").symlink_to("original.jpg")
    for name, (quality, scale) in SAVED_AGAIN.items():
        size = (round(original.width * scale), round(original.height * scale))
        original.resize(size, Image.Resampling.LANCZOS).save(
            images / f"{name}.jpg", quality=quality
        )
    original.save(images / "lossless.png")
    red, green, blue = original.split()
    Image.merge("RGB", (blue, red, green)).save(images / "other-colour.jpg", quality=90)
    files = sorted(images.iterdir())
    insert(posts, [str(path) for path in files], first=101)
    return {path.stem: str(101 + n) for n, path in enumerate(files)}


def kinds(db, names, **options):
    """The kind of each pair of the named files, by their names."""
    by_id = {number: name for name, number in names.items()}
    rows = db.execute(
        "SELECT id_a, id_b, kind FROM visrec.duplicates('posts', k => 12, max_distance => 2)"
    ).fetchall()
    assert len({frozenset(row[:2]) for row in rows}) == len(rows)
    return {
        frozenset((by_id[a], by_id[b])): kind for a, b, kind in rows if a in by_id and b in by_id
    }


def test_copies_are_exact_and_pictures_saved_again_near(catalogue, posts):
    found = kinds(posts, catalogue)
    same = {"original", "copied", "link"}
    again = {*SAVED_AGAIN, "lossless"}
    for pair, kind in found.items():
        if "other-colour" in pair:
            assert kind == "similar", pair
        else:
            assert kind == ("exact" if pair <= same else "near"), pair
    assert sum(kind == "exact" for kind in found.values()) == 3
    assert {"original"} | again <= set().union(*(p for p, k in found.items() if k == "near"))


def test_other_pictures_of_a_kind_are_similar(catalogue, posts):
    rows = posts.execute(
        "SELECT kind, similarity, percentile FROM visrec.duplicates('posts', max_distance => 0.9)"
        " WHERE id_a::int < 100 AND id_b::int < 100"
    ).fetchall()
    assert {kind for kind, _, _ in rows} == {"similar"}
    # Neighbours are more similar than random pairs, and the more similar the higher.
    by_similarity = sorted((similarity, percentile) for _, similarity, percentile in rows)
    assert [p for _, p in by_similarity] == sorted(p for _, p in by_similarity)
    assert all(0 <= p <= 100 for _, p in by_similarity)
    assert by_similarity[-1][1] > 80


def test_a_file_that_went_bad_harms_its_own_pairs_alone(catalogue, posts, images):
    before = kinds(posts, catalogue)
    (images / "copied.jpg").unlink()
    whole = (images / "small.jpg").read_bytes()
    (images / "small.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "poor.jpg").write_text("not a picture")
    (images / "link.jpg").unlink()
    (images / "link.jpg").symlink_to("/etc/hostname")
    bad = {"copied", "small", "poor", "link"}
    after = kinds(posts, catalogue)
    assert after.keys() == before.keys()
    for pair, kind in after.items():
        assert kind == ("similar" if pair & bad else before[pair]), pair
    assert posts.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)


def test_a_damaged_file_is_still_a_copy_of_its_copy(catalogue, posts, images):
    (images / "link.jpg").unlink()
    for name in ("original", "copied"):
        (images / f"{name}.jpg").write_bytes(b"damaged")
    found = kinds(posts, catalogue)
    assert found[frozenset(("original", "copied"))] == "exact"
    assert {k for pair, k in found.items() if len(pair & {"original", "copied"}) == 1} == {
        "similar"
    }


@contextmanager
def opened(*directories):
    """The files in these directories that any process opens meanwhile, by inotify."""
    is_opened, is_directory = 0x20, 0x40000000
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    watched = {}
    for directory in directories:
        watch = libc.inotify_add_watch(descriptor, os.fsencode(directory), is_opened)
        assert watch >= 0, os.strerror(ctypes.get_errno())
        watched[watch] = Path(directory)
    found = set()
    try:
        yield found
        events = os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
    while events:
        watch, mask, _, length = struct.unpack_from("iIII", events)
        name = events[16 : 16 + length].rstrip(b"\0")
        events = events[16 + length :]
        if name and not mask & is_directory:
            found.add(watched[watch] / os.fsdecode(name))


def test_only_pictures_of_pairs_are_read(catalogue, posts, images, pictures):
    with opened(images, *pictures.iterdir()) as files:
        pairs = posts.execute(
            "SELECT id_a, id_b FROM duplicates_posts(max_distance => 0.01)"
        ).fetchall()
    keys = {key for pair in pairs for key in pair}
    rows = posts.execute("SELECT image_path FROM posts WHERE id = ANY (%s)", (list(keys),))
    assert files == {(pictures / path).resolve() for (path,) in rows.fetchall()}
    assert 0 < len(files) < 20


def test_keys_of_their_own_type(catalogue, posts):
    """duplicates_<name> has no text to cast, and the same pairs."""
    found = posts.execute(
        "SELECT a.image_path, b.image_path, d.kind FROM duplicates_posts(12, 2) AS d"
        " JOIN posts AS a ON a.id = d.id_a JOIN posts AS b ON b.id = d.id_b"
    ).fetchall()
    texts = posts.execute(
        "SELECT a.image_path, b.image_path, d.kind FROM visrec.duplicates('posts', 12, 2) AS d"
        " JOIN posts AS a ON a.id::text = d.id_a JOIN posts AS b ON b.id::text = d.id_b"
    ).fetchall()
    assert found == texts
    assert {kind for _, _, kind in found} == {"exact", "near", "similar"}


def test_it_can_be_cancelled(catalogue, posts, connect):
    with connect(autocommit=True) as connection:
        connection.execute("SET statement_timeout = 30")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT visrec.duplicates('posts', k => 30, max_distance => 2)")
        connection.execute("SET statement_timeout = 0")
        assert connection.execute("SELECT count(*) > 0 FROM visrec.duplicates('posts')").fetchone()


def test_a_large_table_is_searched_by_its_index(posts):
    """Each row's neighbours come from the index, not from a look at all the others."""
    posts.execute(
        "INSERT INTO posts (id, content_vector) SELECT n / 512 + 1,"
        " array_agg(CASE WHEN n % 512 < 8 THEN random() - 0.5 ELSE 0 END ORDER BY n)::vector"
        " FROM generate_series(0, 3000 * 512 - 1) AS n GROUP BY n / 512"
    )
    posts.execute("ANALYZE posts")
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE '%vector_idx'"
    posts.execute("SELECT visrec.duplicates('posts')")
    posts.execute("SELECT pg_stat_force_next_flush()")
    assert posts.execute(scans).fetchone()[0] >= 3000


# Groups of 1 to 9 rows of one vector; the keys of a group are far from each other.
GROUPS = (
    "INSERT INTO posts (id, content_vector) SELECT n,"
    " ARRAY(SELECT sin(i * i) + 0.3 * sin(g * i * 0.37) FROM generate_series(1, 512) AS i)::vector"
    " FROM (SELECT n, CASE WHEN n % 9 <= n / 9 % 9 THEN n % 100 / 9 + 1000 ELSE n END AS g"
    "       FROM generate_series(1, {rows}) AS n) AS m"
)


def by_hand(db, k, max_distance):
    """The pairs of a table without pictures, by comparing each row with all others."""
    return db.execute(
        "WITH near AS (SELECT a.id AS a, b.* FROM posts AS a, LATERAL ("
        "   SELECT b.id AS b, (a.content_vector <=> b.content_vector) + 0 AS d FROM posts AS b"
        "   WHERE b.id <> a.id AND b.content_vector IS NOT NULL ORDER BY 2, 1 LIMIT %s) AS b"
        "   WHERE a.content_vector IS NOT NULL AND b.d <= %s)"
        " SELECT least(a, b), greatest(a, b), 'similar', max(1 - d) FROM near GROUP BY 1, 2"
        " ORDER BY 4 DESC, 1, 2",
        (k, max_distance),
    ).fetchall()


@pytest.mark.parametrize("method", ["none", "ivfflat"])
def test_copies_are_compared_as_all_rows_are(posts, method):
    """Which pairs, and in which order, as if each row were searched for by itself."""
    posts.execute(GROUPS.format(rows=120))
    posts.execute("UPDATE posts SET content_vector = NULL WHERE id % 50 = 1")
    posts.execute("CALL visrec.reindex('posts', %s)", (method,))
    posts.execute("SET ivfflat.probes = 100")  # so that the index finds what there is
    sizes = posts.execute("SELECT count(*) FROM posts GROUP BY content_vector").fetchall()
    assert len({size for (size,) in sizes}) > 3
    for k, max_distance in ((1, 0), (1, 0.1), (2, 2), (5, 0.1), (12, 0.03), (2147483647, 0.03)):
        found = posts.execute(
            "SELECT id_a, id_b, kind, similarity FROM duplicates_posts(%s, %s)", (k, max_distance)
        ).fetchall()
        assert found == by_hand(posts, k, max_distance), (k, max_distance)


def test_rows_of_one_vector_are_searched_for_once(posts):
    posts.execute(GROUPS.format(rows=300))
    posts.execute("SET track_functions = 'all'")
    different = posts.execute("SELECT count(DISTINCT content_vector) FROM posts").fetchone()
    with posts.transaction():
        posts.execute("SELECT duplicates_posts()")
        assert (
            different
            == posts.execute(
                "SELECT sum(pg_stat_get_xact_function_calls(oid)) FROM pg_proc"
                " WHERE proname = '_nearest' AND pronamespace = 'visrec'::regnamespace"
            ).fetchone()
        )
    assert different[0] < 250
