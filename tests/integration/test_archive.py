"""The ways to dump and restore beside a plain dump into an empty database (see test_dump)."""

import psycopg
import pytest

from tests.servers import client

from .conftest import coverage, insert
from .test_dump import objects, top


def load(script):
    client("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database="restored", text=script)


@pytest.fixture
def filled(posts, paths):
    """The table ``posts`` with vectors, a failure, and settings changed."""
    insert(posts, [*paths[:20], "nowhere.jpg"])
    posts.execute("SELECT visrec.set('max_image_pixels', '7654321')")
    return posts


@pytest.fixture
def restored(filled):
    """A connection to an empty database."""
    filled.execute("DROP DATABASE IF EXISTS restored")
    filled.execute("CREATE DATABASE restored TEMPLATE template0")
    with psycopg.connect(
        filled.info.dsn, dbname="restored", password=filled.info.password, autocommit=True
    ) as connection:
        yield connection
    filled.execute("DROP DATABASE restored WITH (FORCE)")


def check(restored, filled, paths):
    for question in (
        "SELECT p::text FROM posts AS p ORDER BY id",
        "SELECT * FROM visrec.setting ORDER BY name",
        "SELECT to_jsonb(f) - 'relation', f.relation::text FROM visrec.failure AS f",
        "SELECT to_jsonb(m) FROM visrec.model AS m ORDER BY name",
        "SELECT * FROM visrec.attached",
    ):
        assert restored.execute(question).fetchall() == filled.execute(question).fetchall()
    assert objects(restored) == objects(filled)
    assert top(restored) == top(filled)
    embedded = coverage(filled)["embedded"]
    assert coverage(restored) == {"embedded": embedded, "failed": 1}
    insert(restored, paths[20:22], 100)
    restored.execute("UPDATE posts SET image_path = %s WHERE id = 21", (paths[22],))
    assert coverage(restored) == {"embedded": embedded + 3}


def test_parallel_restore(filled, restored, paths, tmp_path):
    archive = str(tmp_path / "archive")
    client("pg_dump", "-Fc", "-f", archive, database=filled.info.dbname)
    client("pg_restore", "-j2", "-e", "-d", "restored", archive, database="restored")
    check(restored, filled, paths)


def test_schema_first_and_data_later(filled, restored, paths):
    load(client("pg_dump", "--schema-only", database=filled.info.dbname))
    load(client("pg_dump", "--data-only", "--disable-triggers", database=filled.info.dbname))
    check(restored, filled, paths)


def test_data_alone_with_triggers(filled, restored, paths):
    load(client("pg_dump", "--schema-only", database=filled.info.dbname))
    load(client("pg_dump", "--data-only", database=filled.info.dbname))
    check(restored, filled, paths)


def test_over_what_is_there(filled, restored, paths):
    """--clean drops triggers, functions and the extension itself, and makes all anew."""
    load(client("pg_dump", database=filled.info.dbname))
    insert(filled, paths[23:25], 200)
    load(client("pg_dump", "--clean", "--if-exists", database=filled.info.dbname))
    check(restored, filled, paths)
