"""pg_dump of an attached database, restored into a fresh one."""

import psycopg
import pytest

from tests.servers import client

from .conftest import coverage, insert


@pytest.fixture
def restore(db, postgresql_noproc):
    """Dumps the test's database with options, and restores it into one named ``restored``."""
    opened = []

    def work(*options):
        dump = client("pg_dump", *options, database=db.info.dbname)
        db.execute("DROP DATABASE IF EXISTS restored")
        db.execute("CREATE DATABASE restored TEMPLATE template0")
        load = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        client(*load, database="restored", text=dump)
        opened.append(
            psycopg.connect(
                db.info.dsn, dbname="restored", password=db.info.password, autocommit=True
            )
        )
        return opened[-1]

    yield work
    for connection in opened:
        connection.close()
    db.execute("DROP DATABASE IF EXISTS restored")


def top(connection):
    return connection.execute(
        "SELECT p.id, s.id, round(s.similarity::numeric, 5)"
        " FROM posts AS p, similar_posts(p.id, 5) AS s WHERE p.content_vector IS NOT NULL"
        " ORDER BY 1, 3 DESC, 2"
    ).fetchall()


def objects(connection):
    """What attach made, and that it goes with the extension."""
    return connection.execute(
        "SELECT pg_describe_object(classid, objid, 0) FROM pg_depend WHERE deptype = 'x' ORDER BY 1"
    ).fetchall()


def test_everything_works_in_the_restored_database(posts, paths, restore):
    insert(posts, [*paths[:20], "nowhere.jpg"])
    posts.execute("SELECT visrec.set('max_image_pixels', '7654321')")
    posts.execute("SELECT visrec.attach('posts', model => 'pixels', show_columns => '{title}')")
    restored = restore()
    assert coverage(restored) == {"embedded": 20, "failed": 1}
    assert top(restored) == top(posts)
    assert objects(restored) == objects(posts)
    assert len(objects(restored)) == 16  # nine functions, six triggers, an index
    settings = "SELECT name, value FROM visrec.setting ORDER BY name"
    assert restored.execute(settings).fetchall() == posts.execute(settings).fetchall()
    failures = "SELECT relation::text, row_id, code, attempts FROM visrec.failure"
    assert restored.execute(failures).fetchall() == posts.execute(failures).fetchall()
    insert(restored, paths[20:22], 100)
    assert coverage(restored) == {"embedded": 22, "failed": 1}
    restored.execute("DROP EXTENSION visrec")
    assert objects(restored) == []


def test_schema_alone(posts, paths, pictures, restore):
    """Without data there are no settings either: the image roots are named again."""
    insert(posts, paths[:3])
    restored = restore("--schema-only")
    assert coverage(restored) == {}
    restored.execute("SELECT visrec.set('image_roots', %s)", (str(pictures),))
    insert(restored, paths[:3])
    assert coverage(restored) == {"embedded": 3}
    assert restored.execute("SELECT count(*) FROM similar_posts(1)").fetchone() == (2,)


def test_a_reduced_index_and_events(posts, paths, restore):
    insert(posts, paths[:20])
    posts.execute("SELECT visrec.reduce('posts', 8)")
    posts.execute("CREATE TABLE likes (user_id text, post_id bigint, weight real, at timestamptz)")
    posts.execute("INSERT INTO likes VALUES ('ann', 1, 1, now())")
    posts.execute("SELECT visrec.attach_events('posts', 'likes')")
    restored = restore()
    assert top(restored) == top(posts)
    assert objects(restored) == objects(posts)
    assert len(objects(restored)) == 18  # and the projection, and recommend_posts_for
    for connection in (posts, restored):
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            "EXPLAIN SELECT FROM posts ORDER BY visrec_reduced_posts_1(content_vector)::vector(8)"
            " <-> visrec_reduced_posts_1((SELECT content_vector FROM posts LIMIT 1))::vector(8)"
        ).fetchall()
        assert "Index Scan using" in str(plan)
    ours, theirs = (
        connection.execute("SELECT id FROM recommend_posts_for('ann')").fetchall()
        for connection in (posts, restored)
    )
    assert ours == theirs
    insert(restored, paths[20:22], 100)
    assert coverage(restored) == {"embedded": 22}
    restored.execute("DROP EXTENSION visrec")
    assert objects(restored) == []


def test_models_are_dumped(db, restore):
    db.execute("INSERT INTO visrec.model VALUES ('mine', '/models/mine', 3, 'abc')")
    restored = restore()
    models = "SELECT name, directory, dimension, fingerprint FROM visrec.model ORDER BY name"
    assert restored.execute(models).fetchall() == db.execute(models).fetchall()
