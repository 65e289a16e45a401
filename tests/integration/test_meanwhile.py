"""What is attached, or what its columns are called, changes while somebody writes."""

import threading
import time

import psycopg
import pytest

from .conftest import coverage, notices, waits
from .test_other_pictures import middle, warnings, wrong

GREEN, BLUE = middle("00ff00"), middle("0000ff")
# They differ in their middle alone: the sources of their vectors do not tell them apart.
SWAP = (
    "ALTER TABLE t RENAME a TO c",
    "ALTER TABLE t RENAME b TO a",
    "ALTER TABLE t RENAME c TO b",
)
CHANGES = {
    "another image column": ("SELECT visrec.attach('t', 'b')",),
    "swapped names": SWAP,
    "another vector column": ("SELECT visrec.attach('t', vector_column => 'v')",),
}


@pytest.fixture
def two(db):
    """An attached table ``t`` with two pictures a row; the image is ``a``."""
    db.execute("CREATE TABLE t (id int PRIMARY KEY, a bytea, b bytea)")
    db.execute("SELECT visrec.attach('t', 'a', model => 'pixels')")
    db.execute("INSERT INTO t VALUES (1, %s, %s)", (GREEN, BLUE))
    return db


def attached(db):
    return db.execute("SELECT image_column, vector_column FROM visrec.attached").fetchone()


@pytest.mark.parametrize(
    "write", ["INSERT INTO t VALUES (2, %s, %s)", "UPDATE t SET a = %s, b = %s"]
)
@pytest.mark.parametrize("change", CHANGES)
def test_an_older_snapshot_writes_nothing(two, connect, change, write):
    others = (middle("ff00ff"), middle("ffff00"))
    other = connect()
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    other.execute("SELECT 1 FROM pg_class")
    for statement in CHANGES[change]:
        two.execute(statement)
    with pytest.raises(psycopg.errors.SerializationFailure):
        other.execute(write, others)
    other.rollback()
    other.execute(write, others)
    other.commit()
    two.execute("CALL visrec.backfill('t')")
    image, vector = attached(two)
    assert wrong(two, "t", image=image, vector=vector) == []


@pytest.mark.parametrize(
    "call", ["SELECT visrec.retry('t')", "SELECT visrec.recheck('t')", "CALL visrec.backfill('t')"]
)
@pytest.mark.parametrize("change", CHANGES)
def test_what_waits_to_write_looks_again(two, connect, change, call):
    two.execute("ALTER TABLE t DISABLE TRIGGER USER")
    two.execute("INSERT INTO t VALUES (2, %s, %s)", (BLUE, GREEN))
    two.execute("ALTER TABLE t ENABLE TRIGGER USER")
    if "retry" in call:
        two.execute(
            "INSERT INTO visrec.failed_row (attachment, row_id, code, message)"
            " SELECT id, '2', 'missing', 'x' FROM visrec.attachment"
        )
    other, watcher = connect(), connect(autocommit=True)
    for statement in CHANGES[change]:
        other.execute(statement)

    def work():
        two.execute(call)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive() and not waits(watcher, two):
        time.sleep(0.01)
    other.commit()
    thread.join()
    two.execute("CALL visrec.backfill('t')")
    image, vector = attached(two)
    assert wrong(two, "t", image=image, vector=vector) == []
    assert coverage(two, "t") == {"embedded": 2}


TWICE = {
    "WITH, before": "WITH u AS (UPDATE p SET n = 1 WHERE id = 2)"
    " UPDATE p SET image_path = {} WHERE id = 1",
    "WITH, after": "WITH u AS (UPDATE p SET image_path = {} WHERE id = 1 RETURNING id)"
    " UPDATE p SET n = 1 FROM u WHERE p.id = u.id + 1",
    "WITH, on conflict": "WITH u AS (INSERT INTO p VALUES (2) ON CONFLICT (id) DO UPDATE SET n = 2)"
    " UPDATE p SET image_path = {} WHERE id = 1",
    "foreign keys": "UPDATE file SET path = {}"
    " WHERE path = (SELECT image_path FROM p WHERE id = 1)",
}


@pytest.mark.parametrize("how", TWICE)
def test_a_statement_that_updates_the_table_twice(db, paths, how):
    """PostgreSQL calls a trigger of the statement once, for the last of them."""
    db.execute("CREATE TABLE file (path text PRIMARY KEY)")
    db.execute(
        "CREATE TABLE p (id int PRIMARY KEY, image_path text REFERENCES file ON UPDATE CASCADE,"
        " thumb text REFERENCES file ON UPDATE CASCADE, n int)"
    )
    db.execute("SELECT visrec.attach('p', model => 'pixels')")
    insert = "INSERT INTO p SELECT n, p, p FROM unnest(%s::text[]) WITH ORDINALITY AS u (p, n)"
    known = paths[:2] if how == "foreign keys" else [*paths[:3], "none.jpg"]
    db.execute("INSERT INTO file SELECT unnest(%s::text[])", (known,))
    db.execute(insert, (paths[:2],))
    db.execute(TWICE[how].format("%s"), (paths[2],))
    assert coverage(db, "p") == {"embedded": 2}
    assert wrong(db, "p") == []
    heard = notices(db)
    db.execute(TWICE[how].format("%s"), ("none.jpg",))
    assert warnings(heard) == ["1 of 1 images could not be embedded"]
    assert coverage(db, "p") == {"embedded": 1, "failed": 1}


def test_strings_that_do_not_conform_to_the_standard(db, paths):
    db.execute("SET standard_conforming_strings = off")
    db.execute("SET escape_string_warning = on")
    heard = notices(db)
    db.execute("CREATE TABLE posts (id int PRIMARY KEY, image_path varchar(99), n int)")
    db.execute("SELECT visrec.attach('posts', model => 'pixels')")
    db.execute("INSERT INTO posts VALUES (1, %s), (2, %s)", (paths[0], paths[1]))
    db.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[2],))
    db.execute("ALTER TABLE posts ALTER image_path TYPE varchar(200)")
    db.execute("SELECT visrec.retry('posts'), visrec.recheck('posts')")
    db.execute("CALL visrec.backfill('posts')")
    assert coverage(db) == {"embedded": 2}
    assert wrong(db, "posts") == []
    found = "SELECT id FROM similar_posts(1, 5, %s)"
    assert db.execute(found, ('{"image_path": {"ne": "x"}}',)).fetchall() == [(2,)]
    db.execute("SELECT * FROM visrec.selftest()")
    db.execute("SELECT visrec.detach('posts')")
    assert warnings(heard) == []
