"""Filters: what they compare, and the two ways to find what they leave."""

import psycopg
import pytest

from .test_k_rows import COPIES, METHODS, TIED, index, rows

PICTURE = "visrec._test_picture()"


def filtered(db, filter_, k=5, row=1):
    """The ids of a search, which must be those of an exact one by hand."""
    return [i for (i,) in db.execute(f"SELECT id FROM similar_posts({row}, {k}, %s)", (filter_,))]


def by_hand(db, condition, k=5, row=1):
    return [
        i
        for (i,) in db.execute(
            f"SELECT t.id FROM posts AS t WHERE t.id <> {row} AND t.content_vector IS NOT NULL"
            f" AND ({condition}) ORDER BY (t.content_vector <=> (SELECT q.content_vector"
            f" FROM posts AS q WHERE q.id = {row})) + 0, t.id LIMIT {k}"
        ).fetchall()
    ]


@pytest.fixture
def spread(posts):
    """3,000 rows with a number from 0 to 2999, and the same again: the planner does not know."""
    rows(posts, 1, 3000)
    posts.execute("ALTER TABLE posts ADD n int, ADD same int, ADD far boolean")
    posts.execute("UPDATE posts SET n = id * 7919 % 3000, same = id * 7919 % 3000")
    posts.execute("ALTER TABLE posts SET (autovacuum_enabled = false)")
    posts.execute("VACUUM ANALYZE posts")
    return posts


FILTERS = {
    '{"n": {"lt": 3}}': "n < 3",
    '{"n": {"lt": 30}}': "n < 30",
    '{"n": {"lt": 300}}': "n < 300",
    '{"n": {"lt": 1500}}': "n < 1500",
    '{"n": {"gte": 0}}': "n >= 0",
    '{"n": {"lt": 1500}, "same": {"gte": 1500}}': "n < 1500 AND same >= 1500",  # none: half a half
    '{"n": {"lt": 200}, "same": {"lt": 200}}': "n < 200 AND same < 200",  # 200: 13 expected
    '{"far": true}': "far",
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", METHODS)
def test_both_ways_find_what_an_exact_search_finds(spread, method):
    index(spread, method)
    spread.execute("SET hnsw.ef_search = 400")  # the graph of 3,000 rows is another matter
    # The statistics know nothing of this: they expect no row.
    spread.execute("UPDATE posts SET far = true WHERE id % 11 = 5")
    for filter_, condition in FILTERS.items():
        for k in (1, 5, 40):
            assert filtered(spread, filter_, k) == by_hand(spread, condition, k), (filter_, k)


def ways(db, filter_, k=5, row=1):
    """Which of the two ways a search took, by the functions that ran."""
    db.execute("SET track_functions = 'all'")
    counted = (
        "SELECT proname, pg_stat_get_xact_function_calls(oid) FROM pg_proc"
        " WHERE proname IN ('_by_index', '_by_row')"
        " AND pronamespace = 'visrec'::regnamespace ORDER BY 1"
    )
    # What was counted before may not have been reported yet.
    with db.transaction():
        before = [calls or 0 for _, calls in db.execute(counted).fetchall()]
        filtered(db, filter_, k, row)
        after = [calls or 0 for _, calls in db.execute(counted).fetchall()]
        return tuple(a - b for a, b in zip(after, before, strict=True))


def test_each_filter_takes_the_cheaper_way(spread):
    assert ways(spread, '{"n": {"lt": 3}}') == (0, 1)
    assert ways(spread, '{"n": {"lt": 2000}}') == (1, 0)


def test_a_wrong_guess_goes_the_other_way(spread):
    # Half of the rows as far as the planner knows, and in truth the 5 farthest.
    spread.execute(
        "UPDATE posts SET n = 2999 WHERE id NOT IN (SELECT id FROM posts ORDER BY"
        " content_vector <=> (SELECT content_vector FROM posts WHERE id = 1) DESC LIMIT 5)"
    )
    assert ways(spread, '{"n": {"lt": 2998}}') == (1, 1)
    # None as far as it knows, and in truth all.
    spread.execute("UPDATE posts SET far = true")
    assert ways(spread, '{"far": true}') == (1, 1)
    assert filtered(spread, '{"far": true}', 3) == by_hand(spread, "far", 3)


@pytest.mark.parametrize("method", TIED)
def test_ties_at_the_cut_are_settled_by_the_index(posts, method):
    posts.execute(COPIES.format(number="sin(n % 240 * i * 0.37 + i * i)", rows=1200))
    posts.execute("ALTER TABLE posts ADD n int")
    posts.execute("UPDATE posts SET n = id * 7919 % 1200")
    index(posts, method)
    posts.execute("VACUUM ANALYZE posts")
    posts.execute("SET hnsw.ef_search = 400")
    posts.execute("SET ivfflat.probes = 100")
    filter_ = '{"n": {"lt": 1100}}'
    for k in (1, 2, 4, 6, 9, 20):
        assert filtered(posts, filter_, k, row=7) == by_hand(posts, "n < 1100", k, row=7), k
        assert ways(posts, filter_, k, row=7) == (1, 0)


# Values ------------------------------------------------------------------------------------------


@pytest.fixture
def typed(db):
    """Rows with columns whose type would cut or round what they are compared with."""
    db.execute("CREATE DOMAIN cents AS numeric(8, 1)")
    db.execute("CREATE DOMAIN above AS integer CHECK (VALUE > 0)")
    db.execute("CREATE DOMAIN code AS varchar(3)")
    db.execute(
        "CREATE TABLE t (id int PRIMARY KEY, image_path bytea, price cents, above above,"
        ' code code, letter "char", label name)'
    )
    db.execute("SELECT visrec.attach('t', model => 'pixels')")
    db.execute(
        f"INSERT INTO t SELECT n, {PICTURE}, n * 2 + 8, n, 'abc', 'x', repeat('l', 63)"
        " FROM generate_series(1, 2) AS n"
    )
    return db


@pytest.mark.parametrize(
    ("filter_", "found"),
    [
        ('{"price": {"lt": 12.04}}', True),
        ('{"price": 12.04}', False),
        ('{"price": {"in": [12.04, 12]}}', True),
        ('{"above": {"gt": -1}}', True),
        ('{"code": "abcdef"}', False),
        ('{"code": {"ne": "abcdef"}}', True),
        ('{"code": "abc"}', True),
        ('{"letter": "xyz"}', False),
        ('{"letter": {"in": ["x", "yz"]}}', True),
        ('{"label": "' + "l" * 64 + '"}', False),
        ('{"label": "' + "l" * 63 + '"}', True),
    ],
)
def test_values_are_compared_as_they_are(typed, filter_, found):
    got = typed.execute("SELECT id FROM similar_t(1, 5, %s)", (filter_,)).fetchall()
    assert got == ([(2,)] if found else [])


def test_a_filter_cannot_name_an_array(typed):
    typed.execute("ALTER TABLE t ADD tags text[]")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match='column "tags" of type text'):
        typed.execute('SELECT * FROM similar_t(1, 5, \'{"tags": "a"}\')')
