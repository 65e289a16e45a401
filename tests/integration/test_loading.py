"""A backfill of a large table without vectors: its index is set aside, and built at the end."""

import threading

import psycopg
import pytest

from tests.servers import Server, server_directory, wait_until

from .conftest import notices

INDEX = (
    "SELECT c.relname, x.indisvalid FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid"
    " JOIN pg_am AS m ON m.oid = c.relam WHERE x.indrelid = 'posts'::regclass AND m.amname = 'hnsw'"
)
THERE = [("posts_content_vector_idx", True)]
ADVICE = "SELECT advice FROM visrec.selftest() WHERE \"check\" = 'index of public.posts'"


@pytest.fixture
def server(pictures, paths):
    """A server that lets its user in by its socket, with 10,000 rows of one picture."""
    with server_directory() as directory:
        server = Server(directory)
        server.initialize()
        server.start()
        with server.connect() as connection:
            connection.execute("CREATE EXTENSION visrec CASCADE")
            connection.execute("SELECT visrec.set('image_roots', %s)", (str(pictures),))
            connection.execute("CREATE TABLE posts (id bigint PRIMARY KEY, image_path text)")
            connection.execute(
                "INSERT INTO posts SELECT n, %s FROM generate_series(1, 10000) AS n", (paths[0],)
            )
            connection.execute("SELECT visrec.attach('posts', model => 'pixels')")
            connection.execute("CREATE EXTENSION dblink")
        yield server


@pytest.mark.slow
def test_the_index_is_set_aside_and_built_at_the_end(server):
    with server.connect() as watching, server.connect() as working:
        stopped = []

        def backfill():
            try:
                working.execute("CALL visrec.backfill('posts')")
            except psycopg.errors.QueryCanceled as error:
                stopped.append(error)

        call = threading.Thread(target=backfill)
        call.start()
        wait_until(lambda: not watching.execute(INDEX).fetchall())
        working.cancel()
        call.join()
        assert stopped
        # As long as it lacks, that is said, and searches answer all the same.
        reindex = "CALL visrec.reindex('public.posts', 'hnsw');"
        assert watching.execute(ADVICE).fetchall() == [(reindex,)]
        assert len(watching.execute("SELECT * FROM similar_posts(1, 5)").fetchall()) == 5
        heard = notices(working)
        working.execute("CALL visrec.backfill('posts')")
        assert ("NOTICE", "public.posts: building the index", None) in heard
        assert watching.execute(INDEX).fetchall() == THERE
        assert watching.execute(ADVICE).fetchall() == []
        assert watching.execute("SELECT * FROM visrec.coverage('posts')").fetchall()[0] == (
            "embedded",
            10000,
        )


def test_it_stays_where_nobody_could_build_it_while_others_write(server):
    with server.connect() as connection:
        connection.execute("DROP EXTENSION dblink")
        connection.execute("SELECT visrec._set_index_aside(1, 10000)")
        assert connection.execute(INDEX).fetchall() == THERE
        connection.execute("DROP INDEX posts_content_vector_idx")
        heard = notices(connection)
        connection.execute("CALL visrec.backfill('posts', max_rows => 10)")
        reindex = "CALL visrec.reindex('public.posts', 'hnsw');"
        assert ("NOTICE", 'table "public.posts" has no index of its vectors', reindex) in heard


def test_an_index_with_options_of_its_own_stays(server):
    with server.connect() as connection:
        with connection.transaction():
            connection.execute("CALL visrec.reindex('posts', m => 8, ef_construction => 32)")
        connection.execute("SELECT visrec._set_index_aside(1, 10000)")
        assert connection.execute(INDEX).fetchall() == THERE
