"""Statements and sessions: what is embedded, what is not touched, what can be interrupted."""

import threading
import time

import psycopg
import pytest

from .conftest import coverage, insert, notices


def test_similar_uses_the_index(posts, paths):
    """The plan that PostgreSQL really runs inside the function, also on its tenth call."""
    posts.execute(
        "INSERT INTO posts (id, content_vector) SELECT n / 512 + 1000,"
        " array_agg(CASE WHEN n % 512 < 4 THEN random() - 0.5 ELSE 0 END ORDER BY n)::vector"
        " FROM generate_series(0, 2000 * 512 - 1) AS n GROUP BY n / 512"
    )
    posts.execute("ANALYZE posts")
    heard = notices(posts)
    posts.execute("LOAD 'auto_explain'")
    posts.execute("SET auto_explain.log_min_duration = 0")
    posts.execute("SET auto_explain.log_nested_statements = on")
    posts.execute("SET client_min_messages = log")
    for _ in range(10):
        posts.execute("SELECT * FROM similar_posts(1000, 5)")
    searches = [plan for _, plan, _ in heard if "ORDER BY t.content_vector" in plan]
    assert len(searches) == 10
    assert all("Index Scan using posts_content_vector_idx" in plan for plan in searches)


def test_updating_another_column_calls_nothing(posts, paths):
    insert(posts, paths[:3])
    posts.execute("SET track_functions = 'all'")
    posts.execute("UPDATE posts SET title = 'new', category = 'other'")
    assert calls(posts, "_trigger_1") == 0
    posts.execute("UPDATE posts SET image_path = %s", (paths[3],))
    assert calls(posts, "_trigger_1") == 3 + 1  # each row, and the statement
    posts.execute("UPDATE posts SET image_path = image_path")
    assert calls(posts, "_trigger_1") == 3 + 1


def calls(connection, function):
    connection.execute("SELECT pg_stat_clear_snapshot()")
    return connection.execute(
        "SELECT coalesce(sum(calls), 0) FROM ("
        " SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = %(name)s UNION ALL"
        " SELECT pg_stat_get_function_calls(oid) FROM pg_proc WHERE proname = %(name)s) AS c",
        {"name": function},
    ).fetchone()[0]


def test_copy_from_any_client(posts, paths):
    with posts.cursor().copy("COPY posts (id, image_path) FROM STDIN") as copy:
        for number, path in enumerate([*paths, "nowhere.jpg"], start=1):
            copy.write_row((number, path))
    assert coverage(posts) == {"embedded": len(paths), "failed": 1}


def test_more_rows_than_a_batch(posts, paths):
    insert(posts, (paths * 4)[:150])
    assert coverage(posts) == {"embedded": 150}
    [(mismatches,)] = posts.execute(
        "SELECT count(*) FROM posts AS a JOIN posts AS b USING (image_path)"
        " WHERE a.content_vector <> b.content_vector"
    ).fetchall()
    assert mismatches == 0


def test_sessions_insert_together(posts, paths, connect):
    def work(first):
        with connect(autocommit=True) as connection:
            for number, path in enumerate(paths[:8]):
                insert(connection, [path], first + number)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert coverage(posts) == {"embedded": 32}


@pytest.fixture
def unembedded(posts, paths):
    """300 rows that were there before the table was attached."""
    posts.execute("SELECT visrec.detach('posts', drop_vectors => true)")
    insert(posts, (paths * 7)[:300])
    posts.execute("SELECT visrec.attach('posts', model => 'pixels')")
    assert coverage(posts) == {"pending": 300}
    return posts


def test_backfill_tells_what_it_did(unembedded):
    heard = notices(unembedded)
    unembedded.execute("CALL visrec.backfill('posts')")
    assert coverage(unembedded) == {"embedded": 300}
    assert heard[-1][1].startswith("public.posts: 300 rows embedded, 0 failed")


def test_sessions_share_a_backfill(unembedded, connect):
    done = []

    def work():
        with connect(autocommit=True) as connection:
            heard = notices(connection)
            connection.execute("CALL visrec.backfill('posts', 8)")
            done.append(heard[-1][1])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert coverage(unembedded) == {"embedded": 300}
    embedded = [int(line.split(": ")[1].split()[0]) for line in done]
    assert sum(embedded) == 300  # no row twice
    assert sum(count > 0 for count in embedded) > 1


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_an_interrupted_backfill_goes_on_where_it_was(unembedded, connect, how):
    worker = connect(autocommit=True)

    def interrupt():
        while coverage(unembedded).get("embedded", 0) < 20:
            time.sleep(0.01)
        unembedded.execute(f"SELECT {how}(%s)", (worker.info.backend_pid,))

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises((psycopg.errors.QueryCanceled, psycopg.errors.AdminShutdown)):
        worker.execute("CALL visrec.backfill('posts', 4)")
    thread.join()
    kept = coverage(unembedded)["embedded"]
    assert 20 <= kept < 300
    unembedded.execute("CALL visrec.backfill('posts')")
    assert coverage(unembedded) == {"embedded": 300}


def test_statement_timeout_takes_effect_in_an_insert(posts, paths):
    insert(posts, paths[:1])  # the libraries are loaded
    posts.execute("SET statement_timeout = '200ms'")
    started = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        insert(posts, paths * 20, 100)
    assert time.monotonic() - started < 2
    posts.execute("RESET statement_timeout")
    assert coverage(posts) == {"embedded": 1}


def test_a_renamed_column_is_followed(posts, paths):
    insert(posts, paths[:2])
    posts.execute("ALTER TABLE posts RENAME image_path TO photo")
    posts.execute("INSERT INTO posts (id, photo) VALUES (3, %s)", (paths[2],))
    assert coverage(posts) == {"embedded": 3}
    found = posts.execute("SELECT * FROM similar_posts(1)")
    assert [column.name for column in found.description] == ["id", "similarity", "photo"]


def test_a_column_that_is_gone_is_named_in_the_error(posts, paths):
    posts.execute("SELECT visrec.attach('posts', on_error => 'raise')")
    insert(posts, paths[:2])
    posts.execute("ALTER TABLE posts ADD photo text")
    posts.execute("UPDATE posts SET photo = image_path")
    posts.execute("ALTER TABLE posts DROP image_path CASCADE")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
        posts.execute("INSERT INTO posts (id, photo) VALUES (3, %s)", (paths[2],))
    assert raised.value.diag.message_detail == 'Column "image_path" no longer exists.'
    assert "visrec.attach('posts'" in raised.value.diag.message_hint.replace("public.", "")
    posts.execute("SELECT visrec.attach('posts', image_column => 'photo')")
    posts.execute("INSERT INTO posts (id, photo) VALUES (3, %s)", (paths[2],))
    assert coverage(posts) == {"embedded": 3}


@pytest.mark.parametrize(
    "search",
    [
        "similar_{table}({key})",
        "search_{table}_by_image({path})",
        "recommend_{table}(ARRAY[{key}])",
        "recommend_{table}_weighted(jsonb_build_array(jsonb_build_array({key}, 2)))",
        "recommend_{table}_for('ann')",
        "duplicates_{table}(max_distance => 2)",
        "failures_{table}()",
    ],
)
def test_one_session_searches_tables_with_keys_of_different_types(db, paths, search):
    """PL/pgSQL keeps the types of the first call's records for the session."""
    tables = {
        "numbers": ("bigint", ["1", "2", "3"]),
        "names": ("text", ["'1'", "'2'", "'3'"]),
        "days": ("date", ["'2026-01-01'", "'2026-01-02'", "'2026-01-03'"]),
    }
    for table, (kind, keys) in tables.items():
        db.execute(f"CREATE TABLE {table} (id {kind} PRIMARY KEY, image_path text)")
        db.execute(
            f"CREATE TABLE {table}_events (user_id text, post_id {kind}, weight int, at date)"
        )
        db.execute(f"SELECT visrec.attach('{table}', model => 'pixels')")
        db.execute(f"SELECT visrec.attach_events('{table}', '{table}_events')")
        for key, path in zip(keys, [*paths[:2], "nowhere.jpg"], strict=True):
            db.execute(f"INSERT INTO {table} VALUES ({key}, %s)", (path,))
        db.execute(f"INSERT INTO {table}_events VALUES ('ann', {keys[0]}, 1, '2026-01-01')")
    path = psycopg.sql.Literal(paths[0]).as_string(db)
    for table, (kind, keys) in tables.items():
        call = search.format(table=table, key=f"{keys[0]}::{kind}", path=path)
        assert db.execute(f"SELECT * FROM {call}").fetchall(), call
