"""visrec.tune: the width that reaches the target is found, kept, used, and due again."""

import psycopg
import pytest

from .conftest import notices


@pytest.fixture
def items(db):
    """1200 made-up vectors without a pattern, in an index that is too thin for the usual width."""
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    db.execute("CALL visrec.reindex('items', 'none')")
    fill(db, 1, 1200)
    with db.transaction():  # where it does not tune by itself
        db.execute("CALL visrec.reindex('items', 'hnsw', m => 4, ef_construction => 16)")
    return db


def fill(db, first, last, table="items"):
    db.execute("SELECT setseed(0.5)")
    db.execute(
        f"INSERT INTO {table} (id, content_vector)"
        " SELECT n / 512, array_agg(random() - 0.5 ORDER BY n)::vector"
        f" FROM generate_series({first} * 512, {last} * 512 + 511) AS n GROUP BY n / 512"
    )
    db.execute(f"ANALYZE {table}")


def attached(db):
    return db.execute("SELECT recall, width FROM visrec.attached").fetchone()


def selftest(db):
    rows = db.execute(
        "SELECT ok, advice FROM visrec.selftest() WHERE \"check\" = 'recall of public.items'"
    )
    return rows.fetchall()


def test_the_smallest_width_that_reaches_the_target_is_kept_and_used(items):
    assert attached(items) == (0.98, None)
    assert selftest(items) == [(False, "SELECT * FROM visrec.tune('public.items');")]
    items.execute("SELECT visrec.attach('items', recall => 0.8)")
    [(before,)] = items.execute("SELECT recall FROM visrec.recall('items')").fetchall()
    lines = items.execute(
        "SELECT width, recall, at_least, kept FROM visrec.tune('items')"
    ).fetchall()
    assert [width for width, *_ in lines] == [40, 60, 100, 150, 200, 300, 400, 600, 800, 1000]
    [(width, recall)] = [(width, recall) for width, recall, _, kept in lines if kept]
    assert width == min(width for width, _, at_least, _ in lines if at_least >= 0.8)
    assert width > 40
    assert attached(items) == (0.8, width)
    [measured] = items.execute(
        "SELECT recall, target, width, tuned_recall, tuned_queries, tuned_rows, tuned_at <= now()"
        " FROM visrec.recall('items')"
    ).fetchall()
    assert measured[0] >= 0.8 > before
    assert measured[1:] == (0.8, width, recall, 200, 1200, True)
    assert selftest(items) == [(True, None)]


def test_a_greater_width_of_the_sessions_counts_and_a_lesser_does_not(items):
    items.execute("SELECT visrec.attach('items', recall => 0.8)")
    items.execute("SELECT visrec.tune('items')")
    kept = attached(items)[1]
    nearest = "SELECT array_agg(id ORDER BY id) FROM similar_items(1)"
    found = items.execute(nearest).fetchone()
    for width, used in ((1, kept), (1000, 1000)):
        items.execute(f"SET hnsw.ef_search = {width}")
        [(shown,)] = items.execute("SELECT width FROM visrec.recall('items', sample => 1)")
        assert shown == used
        assert width > kept or items.execute(nearest).fetchone() == found
        assert items.execute("SHOW hnsw.ef_search").fetchone() == (str(width),)


def test_out_of_reach_it_says_what_would_reach_it(items):
    heard = notices(items)
    items.execute("SELECT visrec.attach('items', recall => 1)")
    items.execute("SELECT visrec.tune('items')")
    [(severity, message, hint)] = heard
    assert severity == "WARNING"
    assert message.startswith('searches of table "public.items" find 0.')
    assert hint == "CALL visrec.reindex('public.items', 'hnsw', m => 8, ef_construction => 64);"
    assert selftest(items) == [(False, "SELECT * FROM visrec.tune('public.items');")]
    [(before,)] = items.execute("SELECT tuned_recall FROM visrec.attachment").fetchall()
    items.execute(hint)  # which ends with tune
    [(after,)] = items.execute("SELECT tuned_recall FROM visrec.attachment").fetchall()
    assert after > before
    assert items.execute(
        "SELECT reloptions FROM pg_class WHERE relname = 'items_content_vector_idx'"
    ).fetchone() in [None, (["m=8", "ef_construction=64"],)]


def test_too_few_queries_to_tell(db):
    db.execute("CREATE TABLE few (id bigint PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('few', model => 'pixels', recall => 0.9999)")
    fill(db, 1, 300, "few")
    heard = notices(db)
    db.execute("SELECT visrec.tune('few')")
    assert [message for _, message, _ in heard] == [
        '200 queries are too few to tell whether searches of table "public.few" find 0.9999 of the'
        " nearest rows"
    ]


def test_due_again_when_the_table_has_doubled(items):
    items.execute("SELECT visrec.attach('items', recall => 0.5)")
    items.execute("SELECT visrec.tune('items')")
    fill(items, 1201, 2300)
    assert selftest(items) == [(True, None)]
    fill(items, 2301, 2400)
    assert selftest(items) == [(False, "SELECT * FROM visrec.tune('public.items');")]


def test_other_indexes(items):
    items.execute("SELECT visrec.attach('items', recall => 0.5)")
    for method, least in (("hnsw_half", 40), ("hnsw_binary", 200), ("ivfflat", 1)):
        with items.transaction():
            items.execute(f"CALL visrec.reindex('items', '{method}')")
        assert attached(items) == (0.5, None)  # another index: another matter
        widths = items.execute("SELECT width, kept FROM visrec.tune('items', '5 s')").fetchall()
        assert widths[0][0] == least
        [(found, width)] = items.execute(
            "SELECT recall, width FROM visrec.recall('items')"
        ).fetchall()
        assert width >= attached(items)[1]
        assert found >= 0.5
    items.execute("CALL visrec.reindex('items', 'none')")
    heard = notices(items)
    assert items.execute("SELECT * FROM visrec.tune('items')").fetchall() == []
    assert heard == [
        (
            "NOTICE",
            'table "public.items" has no index to tune',
            "CALL visrec.reindex('public.items');",
        )
    ]


def test_a_budget_that_is_too_small_says_so(items):
    heard = notices(items)
    assert items.execute("SELECT * FROM visrec.tune('items', '1 microsecond')").fetchall() == []
    [(_, message, hint)] = heard
    assert message == 'table "public.items" cannot be tuned in 00:00:00.000001'
    assert hint.startswith("SELECT * FROM visrec.tune('public.items', '")
    assert items.execute(hint).fetchall()
    assert attached(items)[1]


def test_a_backfill_of_many_rows_ends_with_it(db):
    db.execute("CREATE TABLE pics (id bigint PRIMARY KEY, image bytea)")
    db.execute(
        "INSERT INTO pics SELECT n, convert_to(E'P6\\n2 1\\n255\\n', 'UTF8')"
        " || decode(left(md5(n::text), 12), 'hex') FROM generate_series(1, 1001) AS n"
    )
    db.execute("SELECT visrec.attach('pics', image_column => 'image', model => 'pixels')")
    db.execute("CALL visrec.backfill('pics', max_rows => 999)")
    assert attached(db) == (0.98, None)
    db.execute("UPDATE pics SET content_vector = NULL, content_vector_source = NULL")
    db.execute("CALL visrec.backfill('pics')")
    assert attached(db)[1] is not None
    [(rows,)] = db.execute("SELECT tuned_rows FROM visrec.attachment").fetchall()
    assert rows == 1001


def test_it_measures_what_the_owner_sees(items):
    """Row-level security leaves a member of the owner's role one row here."""
    items.execute("DROP ROLE IF EXISTS visrec_owner, visrec_member")
    items.execute("CREATE ROLE visrec_owner; CREATE ROLE visrec_member IN ROLE visrec_owner")
    try:
        items.execute("ALTER TABLE items OWNER TO visrec_owner")
        items.execute("SELECT visrec.grant_access('visrec_owner'); SELECT visrec.attach('items')")
        items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        items.execute("CREATE POLICY few ON items USING (id = 1 OR current_user = 'visrec_owner')")
        items.execute("SET ROLE visrec_member")
        assert items.execute("SELECT count(*) FROM items").fetchone() == (1,)
        items.execute("SELECT visrec.tune('items')")
        items.execute("RESET ROLE")
        assert items.execute("SELECT tuned_rows FROM visrec.attachment").fetchone() == (1200,)
    finally:
        items.execute("RESET ROLE")
        items.execute("DROP TABLE items")
        items.execute("SELECT visrec.revoke_access('visrec_owner')")
        items.execute("DROP OWNED BY visrec_owner, visrec_member")
        items.execute("DROP ROLE visrec_member, visrec_owner")


def test_an_owner_cannot_write_a_width_that_there_is_not(items):
    for lie in ("width = 0", "width = 40000", "recall = 0", "recall = 'NaN'", "recall = NULL"):
        items.execute("DROP ROLE IF EXISTS visrec_liar; CREATE ROLE visrec_liar")
        items.execute("ALTER TABLE items OWNER TO visrec_liar")
        items.execute("SET ROLE visrec_liar")
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.NotNullViolation)):
            items.execute(f"UPDATE visrec.own_attachment SET {lie}")
        items.execute("RESET ROLE")
        items.execute("ALTER TABLE items OWNER TO postgres")
        items.execute("DROP OWNED BY visrec_liar; DROP ROLE visrec_liar")
