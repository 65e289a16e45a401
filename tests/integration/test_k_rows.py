"""k rows come back whenever k exist: whatever died, whatever the session's settings."""

import psycopg
import pytest

from .conftest import notices

# Made-up vectors, so that thousands of rows take no encoder: no two are the same.
ROWS = (
    "INSERT INTO posts (id, category, content_vector) SELECT n, 'c' || n % 5,"
    " ARRAY(SELECT sin(n * 0.37 + i * 1.3) FROM generate_series(1, 512) AS i)::vector"
    " FROM generate_series({first}, {last}) AS n"
)


def rows(connection, first, last):
    connection.execute(ROWS.format(first=first, last=last))


def found(connection, call="similar_posts(1, 5)"):
    """The ids that a search returns."""
    return [row[0] for row in connection.execute(f"SELECT id FROM {call}").fetchall()]


def nearest(connection, k=5, row=1):
    """The ids of an exact search."""
    return [
        found_row[0]
        for found_row in connection.execute(
            "SELECT t.id FROM posts AS t WHERE t.id <> %(row)s AND t.content_vector IS NOT"
            " NULL ORDER BY"
            " (t.content_vector <=> (SELECT q.content_vector FROM posts AS q WHERE q.id ="
            " %(row)s)) + 0,"
            " t.id LIMIT %(k)s",
            {"row": row, "k": k},
        ).fetchall()
    ]


def compared_all(connection, call):
    """What a search finds, and how often it compared every row."""
    connection.execute("SET track_functions = 'all'")
    counted = (
        "SELECT coalesce(pg_stat_get_xact_function_calls(oid), 0) FROM pg_proc"
        " WHERE proname = '_by_row' AND pronamespace = 'visrec'::regnamespace"
    )
    # What was counted before may not have been reported yet.
    with connection.transaction():
        [(before,)] = connection.execute(counted).fetchall()
        ids = found(connection, call)
        [(after,)] = connection.execute(counted).fetchall()
    return ids, after - before


@pytest.fixture
def many(posts):
    """``posts`` with a vacuum that never comes."""
    posts.execute("ALTER TABLE posts SET (autovacuum_enabled = false)")
    return posts


METHODS = ["hnsw", "hnsw_half", "hnsw_binary", "ivfflat", "reduced", "none"]


def index(connection, method):
    if method == "reduced":
        connection.execute("SELECT visrec.reduce('posts', 16)")
    else:
        connection.execute("CALL visrec.reindex('posts', %s)", (method,))


def test_28000_dead_versions_of_200_rows(many):
    """Unfiltered: the index scan gives up among the dead, the search does not."""
    rows(many, 1, 200)
    many.execute("SET synchronous_commit = off")
    for _ in range(140):
        many.execute("UPDATE posts SET content_vector = content_vector")
    for k in (1, 5, 50, 199, 200, 500):
        assert len(found(many, f"similar_posts(1, {k})")) == min(k, 199)
    assert found(many) == nearest(many)


SETTINGS = [
    "work_mem = '64kB'",
    "hnsw.max_scan_tuples = 1000",
    "hnsw.max_scan_tuples = 1",
    "hnsw.scan_mem_multiplier = 1",
    "hnsw.ef_search = 1",
    "hnsw.iterative_scan = off",
    "hnsw.iterative_scan = relaxed_order",
    "ivfflat.probes = 1",
    "ivfflat.max_probes = 1",
    "ivfflat.iterative_scan = off",
    "enable_indexscan = off",
    "enable_seqscan = off",
    "enable_sort = off",
    "plan_cache_mode = force_custom_plan",
    "max_parallel_workers_per_gather = 0",
    "statement_timeout = '60s'",
    "extra_float_digits = 0",
]


def test_settings_of_the_session_after_7999_of_8100_deletions(many, connect):
    rows(many, 1, 8100)
    many.execute("DELETE FROM posts WHERE id > 1 AND id <= 8000")
    expected = nearest(many)
    for setting in SETTINGS:
        session = connect(autocommit=True)
        session.execute("SELECT '[1]'::vector")  # pgvector's settings are known
        session.execute(f"SET {setting}")
        assert found(session) == expected, setting
        assert len(found(session, "similar_posts(1, 99)")) == 99, setting
        assert len(found(session, "similar_posts(1, 500)")) == 100, setting
        assert len(found(session, "recommend_posts('{1}', k => 7)")) == 7, setting
        name, value = (part.strip(" '") for part in setting.split("="))
        assert session.execute(f"SHOW {name}").fetchone()[0] in (
            value,
            value.replace("60s", "1min"),
        )
        session.close()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", METHODS)
def test_every_index_after_deletions(many, method):
    rows(many, 1, 2500)
    index(many, method)
    many.execute("DELETE FROM posts WHERE id > 1 AND id <= 2400")
    many.execute("SET work_mem = '64kB'")
    many.execute("SET hnsw.max_scan_tuples = 1000")
    for k in (1, 5, 99, 100, 101, 1000, 1001):
        assert len(found(many, f"similar_posts(1, {k})")) == min(k, 100)
    many.execute("DELETE FROM posts WHERE id > 2402")
    assert sorted(found(many, "similar_posts(1, 5)")) == [2401, 2402]
    many.execute("DELETE FROM posts WHERE id > 1")
    assert found(many) == []


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", METHODS)
def test_dead_rows_and_a_filter(many, method):
    rows(many, 1, 2500)
    index(many, method)
    many.execute("DELETE FROM posts WHERE id > 1 AND id <= 2400 AND id <> 77")
    many.execute("UPDATE posts SET category = 'rare' WHERE id = 77 OR id > 2497")
    call = 'similar_posts(1, {k}, \'{{"category": "rare"}}\')'
    assert sorted(found(many, call.format(k=10))) == [77, 2498, 2499, 2500]
    assert len(found(many, call.format(k=2))) == 2


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", ["hnsw", "hnsw_binary", "ivfflat"])
def test_rows_that_row_level_security_hides(many, connect, method):
    rows(many, 1, 1500)
    index(many, method)
    many.execute("DROP ROLE IF EXISTS visrec_reader")
    many.execute("CREATE ROLE visrec_reader LOGIN PASSWORD 'x'")
    many.execute("GRANT SELECT ON posts TO visrec_reader")
    many.execute("ALTER TABLE posts ENABLE ROW LEVEL SECURITY")
    many.execute("CREATE POLICY few ON posts USING (id IN (1, 20, 700, 1400, 1500))")
    try:
        with psycopg.connect(
            many.info.dsn, user="visrec_reader", password="x", autocommit=True
        ) as reader:
            for k in (1, 4, 10):  # also in a session that has not loaded pgvector's library
                assert len(found(reader, f"similar_posts(1, {k})")) == min(k, 4)
            reader.execute("SET work_mem = '64kB'")
            assert sorted(found(reader, "similar_posts(1, 10)")) == [20, 700, 1400, 1500]
            assert sorted(found(reader, "recommend_posts('{1}')")) == [20, 700, 1400, 1500]
            hidden = notices(reader)
            assert found(reader, "similar_posts(2, 10)") == []
            assert len(hidden) == 1
    finally:
        many.execute("DROP OWNED BY visrec_reader")
        many.execute("DROP ROLE visrec_reader")


def test_deleted_and_uncommitted_rows_of_others(many, connect):
    """What another session has not committed is neither found nor in the way."""
    rows(many, 1, 1200)
    other = connect()
    other.execute("DELETE FROM posts WHERE id > 600")
    other.execute(ROWS.format(first=2001, last=3000))
    assert len(found(many, "similar_posts(1, 999)")) == 999
    assert found(many) == nearest(many)
    reader = connect()
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    assert len(found(reader, "similar_posts(1, 1199)")) == 1199
    other.commit()
    assert len(found(reader, "similar_posts(1, 1199)")) == 1199
    assert len(found(many, "similar_posts(1, 2000)")) == 1599
    assert found(many) == nearest(many)


def test_rows_in_partitions(db):
    """MergeAppend of the partitions' indexes, most of whose rows are dead."""
    db.execute(
        "CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, category text)"
        " PARTITION BY HASH (id)"
    )
    for n in range(4):
        db.execute(
            f"CREATE TABLE posts_{n} PARTITION OF posts FOR VALUES WITH (modulus 4, remainder {n})"
            " WITH (autovacuum_enabled = false)"
        )
    db.execute("SELECT visrec.attach('posts', model => 'pixels')")
    rows(db, 1, 2500)
    db.execute("DELETE FROM posts WHERE id > 1 AND id <= 2400")
    db.execute("SET work_mem = '64kB'")
    db.execute("SET hnsw.max_scan_tuples = 1000")
    for k in (1, 5, 99, 100, 500):
        assert len(found(db, f"similar_posts(1, {k})")) == min(k, 100)
    assert found(db) == nearest(db)


# Several rows of one vector, in an order that is not that of the keys.
COPIES = (
    "INSERT INTO posts (id, category, content_vector) SELECT n, 'c',"
    " ARRAY(SELECT {number} FROM generate_series(1, 512) AS i)::vector"
    " FROM generate_series(1, {rows}) AS n ORDER BY sha256(n::text::bytea)"
)
TIED = ["hnsw", "ivfflat"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", [*TIED, "hnsw_binary"])
def test_ties_at_the_cut_do_not_compare_every_row(many, method):
    many.execute(COPIES.format(number="sin(n % 240 * i * 0.37 + i * i)", rows=1200))
    index(many, method)
    many.execute("SET hnsw.ef_search = 400")  # the graph of 240 vectors is another matter
    many.execute("SET ivfflat.probes = 100")
    for row in (1, 723):
        for k in (1, 3, 4, 5, 8, 9, 31):
            exact = nearest(many, k, row)
            assert compared_all(many, f"similar_posts({row}, {k})") == (exact, 0), (row, k)
    recommended, times = compared_all(many, "recommend_posts('{1}', k => 7)")
    assert (recommended, times) == (nearest(many, 7), 0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("method", TIED)
def test_more_ties_than_the_index_is_asked_for(many, method):
    """Six of seven rows are equal. A graph of them gives nothing else, and not the copies of the
    seventh, which are nearer."""
    many.execute(
        COPIES.format(
            number="sin(i * i) + CASE WHEN n % 7 = 0 THEN 0.7 * sin(n % 490 * i * 0.37) ELSE 0 END",
            rows=1500,
        )
    )
    index(many, method)
    for k in (1, 7, 50, 999):
        assert compared_all(many, f"similar_posts(1, {k})") == (nearest(many, k), 1), k
    many.execute("SET hnsw.ef_search = 400")  # the graph of so many equal rows is another matter
    for k in (1, 7, 50, 999):
        assert found(many, f"similar_posts(7, {k})") == nearest(many, k, 7), k
