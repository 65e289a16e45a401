"""The ways to dump and restore beside a plain dump into an empty database (see test_dump)."""

import psycopg
import pytest

from tests.servers import client

from .conftest import coverage, insert, notices
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


@pytest.fixture
def copied(filled, restored, tmp_path):
    """``posts`` by itself, in a database where the attachment with its id is that of ``others``."""
    archive = str(tmp_path / "archive")
    client("pg_dump", "-Fc", "-t", "posts", "-f", archive, database=filled.info.dbname)
    restored.execute("CREATE EXTENSION visrec CASCADE")
    restored.execute("INSERT INTO visrec.setting_value VALUES ('image_roots', '/')")
    restored.execute("CREATE TABLE others (id bigint PRIMARY KEY, image_path text)")
    restored.execute("SELECT visrec.attach('others', model => 'pixels')")
    restored.execute("INSERT INTO others VALUES (1, 'nowhere.jpg')")
    client("pg_restore", "-e", "-d", "restored", archive, database="restored", silent=True)
    roots = filled.execute("SELECT value FROM visrec.setting WHERE name = 'image_roots'").fetchone()
    restored.execute("UPDATE visrec.setting_value SET value = %s", roots)
    return restored


def test_one_table_where_its_id_is_anothers(copied, paths):
    """It can be written to, and keeps no vector of another picture."""
    heard = notices(copied)
    insert(copied, paths[20:21], 100)
    copied.execute("UPDATE posts SET image_path = %s WHERE id = 2", (paths[22],))
    assert [severity for severity, _, _ in heard] == ["WARNING"] * 2
    for _, message, hint in heard:
        assert message.startswith('table "public.posts" has visrec\'s triggers and is not attached')
        assert hint.startswith("SELECT visrec.attach('public.posts', …); CALL visrec.backfill(")
    bare = copied.execute("SELECT id FROM posts WHERE content_vector IS NULL ORDER BY id")
    assert bare.fetchall() == [(2,), (21,), (100,)]
    copied.execute("DELETE FROM posts WHERE id = 21")
    copied.execute("TRUNCATE posts")
    assert coverage(copied, "others") == {"failed": 1}


def test_a_trigger_changes_an_image_where_the_id_is_anothers(copied):
    """visrec_1_late is in the dump of a table that has such a trigger."""
    copied.execute(
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.image_path := 'x'; RETURN NEW; END $$;"
        'CREATE TRIGGER "~~" BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION other();'
        "CREATE TRIGGER visrec_1_late AFTER UPDATE ON posts FOR EACH ROW"
        " WHEN (OLD.image_path <> NEW.image_path) EXECUTE FUNCTION visrec._trigger_1()"
    )
    with pytest.raises(psycopg.errors.TriggeredDataChangeViolation):
        copied.execute("UPDATE posts SET title = 'y' WHERE id = 1")
    copied.execute("UPDATE posts SET title = 'y' WHERE id = 21")  # which has no vector


@pytest.mark.parametrize("drop_vectors", [False, True])
def test_detach_where_the_id_is_anothers(copied, drop_vectors):
    copied.execute("SELECT visrec.detach('posts', drop_vectors => %s)", (drop_vectors,))
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = '{}'::regclass"
    assert copied.execute(triggers.format("posts")).fetchone() == (0,)
    assert copied.execute(triggers.format("others")).fetchone() == (6,)
    columns = [column.name for column in copied.execute("SELECT * FROM posts").description]
    assert ("content_vector_source" in columns) != drop_vectors


def test_attach_where_the_id_is_anothers(copied, paths):
    copied.execute("UPDATE posts SET image_path = %s WHERE id = 2", (paths[22],))
    copied.execute("SELECT visrec.attach('posts', model => 'pixels')")
    called = copied.execute(
        "SELECT DISTINCT tgfoid::regproc::text FROM pg_trigger WHERE tgrelid = 'posts'::regclass"
    )
    assert called.fetchall() == [("visrec._trigger_2",)]
    insert(copied, paths[20:21], 100)
    copied.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[6],))
    copied.execute("CALL visrec.backfill('posts')")
    assert coverage(copied) == {"embedded": 21, "failed": 1}
    copied.execute("TRUNCATE posts")
    assert coverage(copied, "others") == {"failed": 1}
    copied.execute("INSERT INTO others VALUES (2, %s)", (paths[0],))
    assert coverage(copied, "others") == {"failed": 1, "embedded": 1}
