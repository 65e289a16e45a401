"""Replicas: a streaming standby, and a subscriber of logical replication."""

import psycopg
import pytest

from tests.servers import Server, as_server, program, server_directory, wait_until

from .conftest import coverage, insert

ROWS = "SELECT p::text FROM posts AS p ORDER BY id"
NEIGHBOURS = "SELECT p.id, s.* FROM posts AS p, similar_posts(p.id, 5) AS s ORDER BY 1, 3 DESC, 2"
FAILURES = "SELECT relation::text, row_id, image, code, attempts FROM visrec.failure ORDER BY 2"


# A streaming standby ------------------------------------------------------------------------


@pytest.fixture
def standby(posts):
    """A hot standby of the tests' cluster: a connection to its copy of the test's database."""
    posts.execute("SET synchronous_commit = on")  # so that what is written is sent at once
    password = posts.info.password
    with server_directory() as directory:
        server = Server(directory)
        as_server(
            program("pg_basebackup"),
            *("-h", posts.info.host, "-p", str(posts.info.port), "-U", posts.info.user),
            *("-D", server.data, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
            PGPASSWORD=password,
        )
        server.start()
        with server.connect(posts.info.dbname, password=password) as connection:
            yield connection


def catch_up(standby, primary):
    [(written,)] = primary.execute("SELECT pg_current_wal_flush_lsn()").fetchall()
    replayed = "SELECT pg_last_wal_replay_lsn() >= %s"
    wait_until(lambda: standby.execute(replayed, (written,)).fetchone()[0])


def test_a_standby_answers_and_can_take_over(posts, standby, paths):
    insert(posts, [*paths[:20], "nowhere.jpg"])
    posts.execute("SELECT visrec.attach('posts', model => 'pixels', show_columns => '{title}')")
    posts.execute("DELETE FROM posts WHERE id = 3")
    catch_up(standby, posts)
    for question in (ROWS, NEIGHBOURS, FAILURES, "SELECT * FROM visrec.attached"):
        assert standby.execute(question).fetchall() == posts.execute(question).fetchall()
    assert coverage(standby) == {"embedded": 19, "failed": 1}
    every = "SELECT count(*) FROM similar_posts(1, 1000)"
    assert standby.execute(every).fetchone() == (18,)
    [(vector,)] = standby.execute(
        "SELECT visrec.embed_image(%s::text, 'pixels')::text", (paths[0],)
    ).fetchall()
    stored = posts.execute("SELECT content_vector::text FROM posts WHERE id = 1").fetchall()
    assert stored == [(vector,)]

    standby.execute("SELECT pg_promote()")
    insert(standby, paths[20:22], 100)
    standby.execute("UPDATE posts SET image_path = %s WHERE id = 21", (paths[22],))
    assert coverage(standby) == {"embedded": 22}


def test_a_standby_refuses_to_write(posts, standby, paths):
    insert(posts, ["nowhere.jpg"])  # without a failure, retry has nothing to write
    catch_up(standby, posts)
    for statement in (
        f"INSERT INTO posts (id, image_path) VALUES (100, '{paths[0]}')",
        f"UPDATE posts SET image_path = '{paths[0]}'",
        "CALL visrec.backfill('posts')",
        "SELECT visrec.retry('posts')",
        "SELECT visrec.attach('posts', model => 'pixels')",
        "SELECT visrec.detach('posts')",
        "SELECT visrec.set('encoder', 'shared')",
    ):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            standby.execute(statement)


# Logical replication ------------------------------------------------------------------------


@pytest.fixture
def subscriber(posts):
    """Another database of the cluster with its own table ``posts``, attached; it finds no image."""
    posts.execute("DROP DATABASE IF EXISTS subscriber")
    posts.execute("CREATE DATABASE subscriber TEMPLATE template0")
    with psycopg.connect(
        posts.info.dsn, dbname="subscriber", password=posts.info.password, autocommit=True
    ) as connection:
        connection.execute("CREATE EXTENSION visrec CASCADE")
        connection.execute("SELECT visrec.set('image_roots', '/nowhere')")
        connection.execute(
            "CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, title text, category text)"
        )
        connection.execute("SELECT visrec.attach('posts', model => 'pixels')")
        yield connection
        # The slot holds the publisher's database, until its sender has seen the subscription go.
        if connection.execute("SELECT FROM pg_subscription").rowcount:
            connection.execute("ALTER SUBSCRIPTION vectors DISABLE")
            connection.execute("ALTER SUBSCRIPTION vectors SET (slot_name = NONE)")
            connection.execute("DROP SUBSCRIPTION vectors")
    idle = "SELECT count(*) = 0 FROM pg_replication_slots WHERE active"
    wait_until(lambda: posts.execute(idle).fetchone()[0])
    posts.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    posts.execute("DROP DATABASE subscriber WITH (FORCE)")


def subscribe(subscriber, publisher):
    """The slot is made first: CREATE SUBSCRIPTION in the same cluster would wait for itself."""
    publisher.execute("CREATE PUBLICATION vectors FOR TABLE posts")
    publisher.execute("SELECT pg_create_logical_replication_slot('vectors', 'pgoutput')")
    info = publisher.info
    where = f"host={info.host} port={info.port} user={info.user} password={info.password}"
    subscriber.execute(
        f"CREATE SUBSCRIPTION vectors CONNECTION '{where} dbname={info.dbname}'"
        " PUBLICATION vectors WITH (create_slot = false, slot_name = 'vectors')"
    )


def test_logical_replication_carries_vectors(posts, subscriber, paths):
    """The initial copy and changes alike: the subscriber, which finds no image, embeds nothing."""
    insert(posts, [*paths[:10], "nowhere.jpg"])
    subscribe(subscriber, posts)
    wait_until(lambda: subscriber.execute(ROWS).fetchall() == posts.execute(ROWS).fetchall())

    insert(posts, paths[10:15], 100)
    posts.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[20],))
    posts.execute("UPDATE posts SET title = 'as it was' WHERE id = 2")  # its vector is not sent
    posts.execute("UPDATE posts SET image_path = 'gone.jpg' WHERE id = 3")  # its vector goes
    posts.execute("DELETE FROM posts WHERE id = 4")
    wait_until(lambda: subscriber.execute(ROWS).fetchall() == posts.execute(ROWS).fetchall())
    assert coverage(posts) == {"embedded": 13, "failed": 2}
    assert coverage(subscriber) == {"embedded": 13, "pending": 2}
    assert subscriber.execute(FAILURES).fetchall() == []
    assert subscriber.execute(NEIGHBOURS).fetchall() == posts.execute(NEIGHBOURS).fetchall()
