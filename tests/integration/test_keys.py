"""Keys of every type: the same row under every setting that changes how a key reads as text."""

import psycopg
import pytest

from .conftest import coverage, notices

KINDS = {
    "float8": ("float8", "0.1 0.30000000000000004 1e300 2.2250738585072014e-308 Infinity NaN"),
    "real": ("real", "0.1 0.3 16777216 1e38 -Infinity NaN"),
    "numeric": ("numeric", "1.00 1.5 0.1000 1e30 -2.50 NaN"),
    "date": ("date", "2024-02-01 2024-01-02 1999-12-31 infinity 2000-02-29 2001-03-04"),
    "timestamp": (
        "timestamp",
        "2024-02-01T03:04:05.000001 2024-01-02 1999-12-31 infinity 2000-02-29 2001-03-04",
    ),
    "timestamptz": (
        "timestamptz",
        "2024-02-01T03:04:05Z 2024-01-02T00:00:00+05:30 1999-12-31T23:59:59.999999Z"
        " infinity 2000-02-29T00:00Z 2001-03-04T00:00Z",
    ),
    "time": ("time", "03:04:05.000001 00:00 23:59:59 24:00 12:00 13:00"),
    "timetz": ("timetz", "03:04:05+02 03:04:05-02 23:59:59Z 24:00+05:30 12:00Z 13:00Z"),
    "interval": ("interval", "P1Y2M3DT4H5M6.7S P-1DT-2H P-1Y2M PT0S PT1H P-1MT1H"),
    "daterange": (
        "daterange",
        "[2024-02-01,2024-03-04) (,2024-01-02) empty [2020-05-06,) [1999-01-02,1999-02-01)"
        " [2001-02-03,2001-03-02)",
    ),
    "tstzrange": (
        "tstzrange",
        "[2024-02-01T00:00Z,2024-03-04T00:00Z) (,2024-01-02T00:00Z) empty [2020-05-06T00:00Z,)"
        " [1999-01-02T00:00Z,] (2001-02-03T00:00Z,)",
    ),
    "numrange": ("numrange", "[1.0,2.00) (,3.10) empty [4,) [5.5,6] (7,8)"),
    "bytea": ("bytea", r"\x00 \x5c \x ab \x27ff \x0a0d"),
    "uuid": ("uuid", " ".join(f"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1{n}" for n in range(6))),
    "enum": ("mood", 'happy sad Mean it\'s "so" %s'),
    "domain": ("outer_day", "2024-02-01 2024-01-02 1999-12-31 2000-02-29 2001-03-04 2002-04-05"),
    "domain of numeric": ("price", "1.00 1.5 0.1000 1e30 -2.50 7"),
    "insensitive text": ('text COLLATE "insensitive"', "Äpfel b C d E f"),
    "char": ("char(5)", "a B 'c' \\d %s $1"),
    "bpchar": ("bpchar", "a B 'c' \\d %s $1"),
    "name": ("name", "a B 'c' \\d %s $1"),
    '"char"': ('"char"', "a B ' \\ % $"),
    "inet": ("inet", "10.0.0.1 10.0.0.0/8 ::1 fe80::/10 192.168.1.5/24 0.0.0.0/0"),
    "money": ("money", "1.5 -2 3000000.25 0 4 5"),
    "bit": ("varbit", "1 01 001 0 11 10"),
    "jsonb": ("jsonb", '1 "1" [1,2] {"a":1.0} null true'),
    "boolean": ("boolean", "true false"),
}
SETUP = """
CREATE TYPE mood AS ENUM ('happy', 'sad', 'Mean', 'it''s', '"so"', '%s');
CREATE DOMAIN day AS date; CREATE DOMAIN inner_day AS day; CREATE DOMAIN outer_day AS inner_day;
CREATE DOMAIN plain AS numeric; CREATE DOMAIN price AS plain CHECK (VALUE > -100);
CREATE TYPE span AS (day date, amount numeric);
CREATE COLLATION insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
"""
USUAL = """
SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET timezone = 'Etc/UTC';
SET bytea_output = 'hex'; SET extra_float_digits = 1;
"""
OTHER = """
SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET timezone = 'Pacific/Kiritimati';
SET bytea_output = 'escape'; SET extra_float_digits = -15;
"""


@pytest.fixture(params=KINDS)
def items(db, request):
    """An attached table ``items`` with a key of some type; the connection, the type, keys."""
    kind, keys = KINDS[request.param]
    db.execute(SETUP)
    db.execute(f"CREATE TABLE items (key {kind} PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    return db, kind, keys.split(" ")


@pytest.mark.one_in(4)
def test_a_key_is_the_same_row_under_every_setting(items, paths, images, pictures):
    """Failures, coverage, retry, backfill and searches written under some settings, read under
    others."""
    db, kind, keys = items
    total, good = len(keys), len(keys) // 2
    db.execute(USUAL)
    missing = f"{images.name}/later.jpg"
    add(db, kind, keys[:good], [missing, *paths])
    db.execute("ALTER TABLE items DISABLE TRIGGER USER")
    add(db, kind, keys[good:], paths[good:])
    db.execute("ALTER TABLE items ENABLE TRIGGER USER")
    usual = db.execute("SELECT row_id FROM visrec.failures('items')").fetchall()
    assert len(usual) == 1

    db.execute(OTHER)
    states = {"embedded": good - 1, "failed": 1, "pending": total - good}
    assert coverage(db, "items") == {state: rows for state, rows in states.items() if rows}
    assert db.execute("SELECT row_id FROM visrec.failures('items')").fetchall() == usual
    joined = db.execute(
        "SELECT i.image_path FROM failures_items() AS f JOIN items AS i ON i.key = f.id"
    )
    assert joined.fetchall() == [(missing,)]
    assert db.execute("SELECT visrec.retry('items')").fetchone() == (0,)
    db.execute("CALL visrec.backfill('items', batch_size => 2)")
    assert coverage(db, "items") == {"embedded": total - 1, "failed": 1}
    [(attempts,)] = db.execute("SELECT attempts FROM failures_items()").fetchall()
    assert attempts == 3  # one line: the INSERT, the retry, the backfill

    (images / "later.jpg").write_bytes((pictures / paths[-1]).read_bytes())
    (images / "later.jpg").chmod(0o644)
    assert db.execute("SELECT visrec.retry('items')").fetchone() == (1,)
    assert coverage(db, "items") == {"embedded": total}
    for key in keys:
        found = db.execute(
            f"SELECT i.key <> %s::{kind} FROM similar_items(%s::{kind}, 10) AS f"
            " JOIN items AS i ON i.key = f.id",
            (key, key),
        )
        assert found.fetchall() == [(True,)] * (total - 1)
    others = db.execute(
        "SELECT count(DISTINCT id) FROM recommend_items("
        "  ARRAY(SELECT key FROM items ORDER BY key LIMIT 1), k => 100)"
    )
    assert others.fetchone() == (total - 1,)
    assert db.execute("SELECT recall FROM visrec.recall('items', 2)").fetchone() == (1,)


def add(db, kind, keys, paths):
    for key, path in zip(keys, paths, strict=False):
        db.execute(f"INSERT INTO items VALUES (%s::{kind}, %s)", (key, path))


@pytest.mark.one_in(4)
def test_an_updated_row_loses_and_gains_its_failure_under_every_setting(items, paths):
    db, kind, keys = items
    db.execute(USUAL)
    add(db, kind, keys, ["nowhere", *paths])
    db.execute(OTHER)
    db.execute("UPDATE items SET image_path = %s WHERE image_path = 'nowhere'", (paths[-1],))
    assert db.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)
    db.execute(f"UPDATE items SET image_path = 'gone' WHERE key = %s::{kind}", (keys[1],))
    db.execute(USUAL)
    assert coverage(db, "items") == {"embedded": len(keys) - 1, "failed": 1}
    db.execute(f"DELETE FROM items WHERE key = %s::{kind}", (keys[1],))
    assert db.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)


def test_backfill_of_float_keys_ends_whatever_digits_are_shown(db, paths):
    """Neighbouring numbers that read alike with few digits."""
    db.execute("CREATE TABLE items (key float8 PRIMARY KEY, image_path text)")
    numbers = [0.1 + 0.2, 0.3, 1 / 3, 1 / 3 + 2**-54, 123456789.123456789, 5e-324]
    db.cursor().executemany(
        "INSERT INTO items VALUES (%s, %s)", [*zip(numbers, paths, strict=False)]
    )
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    db.execute("SET extra_float_digits = 0")
    db.execute("SET statement_timeout = '60s'")
    db.execute("CALL visrec.backfill('items', batch_size => 1)")
    assert coverage(db, "items") == {"embedded": len(numbers)}


@pytest.mark.parametrize("digits", [-15, 0, 1, 3])
def test_float_keys_that_read_alike_have_their_own_vectors(db, paths, digits):
    db.execute("CREATE TABLE items (key float8 PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    db.execute(f"SET extra_float_digits = {digits}")
    db.execute(
        "INSERT INTO items SELECT 1 + n * 2.220446049250313e-16, p"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u (p, n)",
        (paths[:20],),
    )
    assert coverage(db, "items") == {"embedded": 20}
    wrong = db.execute(
        "SELECT count(*) FROM items"
        " WHERE (content_vector <=> visrec.embed_image(image_path, 'pixels')) > 1e-6"
    )
    assert wrong.fetchone() == (0,)


# Values that are equal and do not read alike: the key changed, and the row is another for nobody.
ALIKE = {
    "numeric": ("numeric", "1.0", "1.00"),
    "float8": ("float8", "0", "-0"),
    "interval": ("interval", "1 day", "24:00:00"),
    "insensitive text": ('text COLLATE "insensitive"', "key", "KEY"),
    "jsonb": ("jsonb", "1.0", "1.00"),
    "numrange": ("numrange", "[1.0,2)", "[1.00,2)"),
    "domain of numeric": ("price", "1.0", "1.00"),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_a_key_changed_to_an_equal_one_keeps_its_account(db, paths, kind):
    """One line in visrec.failure at most, which goes with the row; a retry finds the row."""
    declared, before, after = ALIKE[kind]
    db.execute(SETUP)
    db.execute(f"CREATE TABLE items (key {declared} PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    db.execute("INSERT INTO items VALUES (%s, 'nowhere.jpg')", (before,))
    db.execute("UPDATE items SET key = %s", (after,))
    assert coverage(db, "items") in ({"failed": 1}, {"pending": 1})
    db.execute("CALL visrec.backfill('items')")
    assert coverage(db, "items") == {"failed": 1}
    assert db.execute("SELECT count(*) FROM failures_items()").fetchone() == (1,)
    db.execute("UPDATE items SET image_path = %s", (paths[0],))
    assert coverage(db, "items") == {"embedded": 1}
    assert db.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)
    db.execute("UPDATE items SET image_path = 'nowhere.jpg'")
    db.execute("UPDATE items SET key = %s", (before,))
    db.execute("DELETE FROM items")
    assert db.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)


def test_an_update_that_names_the_key_and_keeps_it_keeps_the_failure(db):
    """As object mappers write all columns of a row."""
    db.execute("CREATE TABLE items (key int PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    db.execute("INSERT INTO items VALUES (1, 'nowhere.jpg')")
    db.execute("UPDATE items SET key = 1, image_path = 'nowhere.jpg'")
    assert coverage(db, "items") == {"failed": 1}


@pytest.mark.parametrize("kind", ["integer[]", "public.span", "text[]", "public.days"])
def test_keys_of_arrays_and_records_are_refused(db, kind):
    db.execute(SETUP)
    db.execute("CREATE DOMAIN days AS date[]")
    db.execute(f"CREATE TABLE items (key {kind} PRIMARY KEY, image_path text)")
    with pytest.raises(psycopg.errors.FeatureNotSupported) as raised:
        db.execute("SELECT visrec.attach('items', model => 'pixels')")
    assert raised.value.diag.message_primary == (
        f'cannot attach table "public.items" because its primary key is of type {kind}'
    )


@pytest.mark.parametrize("method", ["hnsw", "ivfflat", "hnsw_half", "hnsw_binary", "none"])
@pytest.mark.parametrize("filter_", [None, '{"shelf": 1}'])
def test_ties_at_the_cut_are_decided_by_the_key(db, pictures, paths, method, filter_):
    """Of many rows as near as each other, those with the smallest keys, whatever the plan."""
    db.execute("CREATE TABLE items (key int PRIMARY KEY, image_path text, shelf int)")
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    db.execute("INSERT INTO items VALUES (0, %s, 1)", (paths[0],))
    # In an order that is not that of the keys, so that neither a scan nor an index gives it.
    db.execute(
        "INSERT INTO items (key, shelf, content_vector)"
        " SELECT n, 1, (SELECT content_vector FROM items) FROM generate_series(1, 300) AS n"
        " ORDER BY sha256(n::text::bytea)"
    )
    db.execute(f"CALL visrec.reindex('items', '{method}')")
    for k in (1, 7, 50):
        found = db.execute("SELECT id FROM similar_items(0, %s, %s)", (k, filter_)).fetchall()
        assert found == [(n,) for n in range(1, k + 1)]
    found = db.execute(
        "SELECT id FROM recommend_items('{5}', k => 4, filter => %s)", (filter_,)
    ).fetchall()
    assert found == [(0,), (1,), (2,), (3,)]
    best = db.execute(
        "SELECT id FROM recommend_items('{5,6}', k => 4, strategy => 'best_score', filter => %s)",
        (filter_,),
    ).fetchall()
    assert best == [(0,), (1,), (2,), (3,)]


def test_keys_of_text_order_as_their_index_does(db, paths):
    db.execute(SETUP)
    db.execute('CREATE TABLE items (key text COLLATE "insensitive" PRIMARY KEY, image_path text)')
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    db.execute(
        "INSERT INTO items SELECT key, %s FROM unnest('{b,A,c,D}'::text[]) AS u (key)", (paths[0],)
    )
    assert db.execute("SELECT id FROM similar_items('B', 2)").fetchall() == [("A",), ("c",)]
    pairs = db.execute("SELECT id_a, id_b, kind FROM duplicates_items()").fetchall()
    assert sorted(pairs) == sorted(
        [(a, b, "exact") for a, b in ("Ab", "Ac", "AD", "bc", "bD", "cD")]
    )


def test_a_missing_key_is_named_as_it_was_given(db):
    db.execute("CREATE TABLE items (key date PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    heard = notices(db)
    db.execute("SELECT * FROM similar_items('2024-02-01')")
    assert heard == [("NOTICE", 'table "public.items" has no row with the key 2024-02-01', None)]
