"""What a tenant does to its tables never blocks another tenant's statements."""

import contextlib
import os
import threading
import time

import psycopg
import pytest
from psycopg import sql

from .conftest import coverage, insert

OTHER = "visrec_tenant"


@pytest.fixture
def tenant(posts):
    """Another tenant's session, with an attached table ``theirs.posts``."""
    posts.execute(f"DROP ROLE IF EXISTS {OTHER}")
    posts.execute(f"CREATE ROLE {OTHER} LOGIN PASSWORD 'x' NOSUPERUSER")
    database = sql.Identifier(posts.info.dbname)
    posts.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, sql.Identifier(OTHER))
    )
    posts.execute(f"SELECT visrec.grant_access('{OTHER}')")
    session = psycopg.connect(posts.info.dsn, user=OTHER, password="x", autocommit=True)
    session.execute("CREATE SCHEMA theirs")
    session.execute("CREATE TABLE theirs.posts (id bigint PRIMARY KEY, image_path text)")
    session.execute("SELECT visrec.attach('theirs.posts', model => 'pixels')")
    yield session
    session.close()
    posts.execute(f"DROP OWNED BY {OTHER} CASCADE")
    posts.execute(f"DROP ROLE {OTHER}")


# 5. DROP TABLE of any attached table -------------------------------------------------------------

OWN = "UPDATE visrec.own_attachment SET"

# What the other tenant may do; {n} is its attachment.
DOINGS = {
    "reduce": "SELECT visrec.reduce('theirs.posts', 2)",
    "drop trigger": 'DROP TRIGGER "visrec_{n}_insert" ON theirs.posts',
    "drop all triggers": "DROP FUNCTION visrec._trigger_{n}() CASCADE",
    "rename trigger": 'ALTER TRIGGER "visrec_{n}_insert" ON theirs.posts RENAME TO mine',
    "drop function": "DROP FUNCTION visrec._table_{n}(text, jsonb)",
    "move function": "ALTER FUNCTION visrec._table_{n}(text, jsonb) SET SCHEMA theirs",
    "rename schema": "ALTER SCHEMA theirs RENAME TO moved",
    "rename table": "ALTER TABLE theirs.posts RENAME TO moved",
    "trigger on a temporary table": "CREATE TEMP TABLE bait (id int);"
    " CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    " CREATE TRIGGER visrec_insert AFTER INSERT ON bait EXECUTE FUNCTION pg_temp.f('5');"
    " CREATE TRIGGER visrec_{n}_insert AFTER INSERT ON bait EXECUTE FUNCTION pg_temp.f('5')",
    "our trigger function on a temporary table": "CREATE TEMP TABLE bait (id int);"
    " CREATE TRIGGER t AFTER INSERT ON bait EXECUTE FUNCTION visrec._trigger_{n}('5')",
    "dependent function": "CREATE TEMP TABLE bait (id int);"
    " CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    " ALTER FUNCTION pg_temp.f() DEPENDS ON EXTENSION visrec;"
    " CREATE TRIGGER t AFTER INSERT ON bait EXECUTE FUNCTION pg_temp.f()",
    "view of a shell": "CREATE VIEW theirs.v AS SELECT * FROM theirs.similar_posts(1)",
    "view of the owner's function": "CREATE VIEW theirs.v AS SELECT"
    " visrec._table_{n}('coverage', '{{}}')",
    "forged shells": f"{OWN} shells = ARRAY("
    "SELECT visrec._shell_digest(proname, prosrc) FROM pg_proc)",
    "forged numbers": f"{OWN} numbers = NULL, types = NULL",
    "forged types": f"{OWN} types = '{{{{int,int}}}}'",
    "forged index": f"{OWN} index_method = 'x', index_metric = 'y', components = '{{{{[1]}}}}'",
    "forged events": f"{OWN} events = 4711, event_columns = '{{{{a}}}}'",
    "forged name": f"{OWN} name = 'a\"b'",
    "forged ids": "INSERT INTO visrec.own_attachment SELECT (a).* FROM (SELECT"
    " jsonb_populate_record(o, jsonb_build_object('id', o.id + i, 'name', 'n' || i)) AS a"
    " FROM visrec.own_attachment AS o, generate_series(1, 5) AS i) AS x",
    "negative id": "INSERT INTO visrec.own_attachment SELECT (a).* FROM (SELECT"
    " jsonb_populate_record(o, jsonb_build_object('id', -1, 'name', 'n')) AS a"
    " FROM visrec.own_attachment AS o) AS x",
    "forged failures": "INSERT INTO visrec.own_failed_row (attachment, row_id, code, message,"
    " attempts, first_try, last_try) SELECT {n}, repeat('x', 2000), 'x', 'x', 1, now(), now()",
    "lost key": "ALTER TABLE theirs.posts DROP CONSTRAINT posts_pkey",
    "lost column": "ALTER TABLE theirs.posts DROP image_path",
    "odd name": 'ALTER TABLE theirs.posts RENAME TO "a\\b(*+["',
    "copies of our shells": "CREATE FUNCTION theirs.{similar} LANGUAGE sql AS {body}",
}


def shell(connection):
    """The declaration and the text of similar_posts."""
    declaration, body = connection.execute(
        "SELECT format('similar_posts(%s) RETURNS %s', pg_get_function_arguments(oid),"
        " pg_get_function_result(oid)), quote_literal(prosrc) FROM pg_proc"
        " WHERE proname = 'similar_posts' AND pronamespace = 'public'::regnamespace"
    ).fetchone()
    return declaration, body


@pytest.mark.parametrize("doing", DOINGS)
@pytest.mark.one_in(3)
def test_others_work_goes_on(posts, tenant, paths, doing):
    """INSERT, UPDATE, search, attach, detach, ALTER and DROP, of a table that is not theirs."""
    insert(tenant_posts(tenant), paths[:6])
    [(number,)] = tenant.execute(
        "SELECT id FROM visrec.attachment WHERE relation = 'theirs.posts'::regclass"
    ).fetchall()
    declaration, body = shell(posts)
    if doing == "copies of our shells":
        tenant.execute("SELECT visrec.detach('theirs.posts')")
    with contextlib.suppress(psycopg.Error):
        tenant.execute(DOINGS[doing].format(n=number, similar=declaration, body=body))
    insert(posts, paths[:4])
    posts.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[5],))
    posts.execute("CALL visrec.backfill('posts')")
    assert coverage(posts) == {"embedded": 4}
    assert len(posts.execute("SELECT * FROM similar_posts(1, 3)").fetchall()) == 3
    lines = posts.execute("SELECT relation::text FROM visrec.attached").fetchall()
    assert ("posts",) in lines
    posts.execute(
        "SELECT c.* FROM visrec.attached AS a, visrec.coverage(a.relation, a.name) AS c"
        " WHERE a.problem IS NULL"
    )
    posts.execute("ALTER TABLE posts ALTER image_path TYPE varchar(400)")
    posts.execute("ALTER TABLE posts RENAME COLUMN image_path TO image")
    posts.execute("SELECT visrec.attach('posts', show_columns => '{title}')")
    posts.execute("SELECT visrec.detach('posts')")
    posts.execute("SELECT visrec.attach('posts', image_column => 'image', model => 'pixels')")
    posts.execute("CREATE TABLE more (id bigint PRIMARY KEY, image_path text)")
    posts.execute("SELECT visrec.attach('more', model => 'pixels')")
    posts.execute("DROP TABLE posts, more")
    assert (
        posts.execute(
            "SELECT relation FROM visrec.attached WHERE relation::text IN ('posts', 'more')"
        ).fetchall()
        == []
    )
    posts.execute("DROP SCHEMA IF EXISTS theirs, moved CASCADE")


def tenant_posts(tenant):
    """The tenant's session, with its table as posts and a column category."""
    tenant.execute("SET search_path = theirs, public")
    tenant.execute("ALTER TABLE theirs.posts ADD category text")
    return tenant


def test_other_tenants_copies_of_a_shell(posts, tenant):
    """The same text in a schema of theirs: neither dropped with ours, nor in the way."""
    tenant.execute("SELECT visrec.detach('theirs.posts')")
    posts.execute("DROP ROLE IF EXISTS visrec_first")
    posts.execute("CREATE ROLE visrec_first")
    posts.execute("GRANT CREATE ON SCHEMA public TO visrec_first")
    posts.execute("SELECT visrec.grant_access('visrec_first')")
    posts.execute("ALTER TABLE posts OWNER TO visrec_first")
    declaration, body = shell(posts)
    tenant.execute(f"CREATE FUNCTION theirs.{declaration} LANGUAGE sql AS {body}")
    count = "SELECT count(*) FROM pg_proc WHERE proname = 'similar_posts' AND pronamespace = 'theirs'::regnamespace"  # noqa: E501
    posts.execute("SET ROLE visrec_first")
    posts.execute("SELECT visrec.attach('posts', show_columns => '{title}')")
    posts.execute("SELECT visrec.attach('posts', show_columns => '{}')")
    posts.execute("ALTER TABLE posts RENAME COLUMN image_path TO image")
    posts.execute("SELECT visrec.detach('posts')")
    posts.execute("SELECT visrec.attach('posts', image_column => 'image', model => 'pixels')")
    posts.execute("DROP TABLE posts")
    posts.execute("RESET ROLE")
    assert posts.execute(count).fetchone() == (1,)
    posts.execute("DROP OWNED BY visrec_first")
    posts.execute("DROP ROLE visrec_first")


def test_a_users_function_with_our_mark_stays(posts):
    """DEPENDS ON EXTENSION is what anybody can set: not a reason to drop it with a table."""
    posts.execute("CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    posts.execute("CREATE FUNCTION similar_others(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    posts.execute("ALTER FUNCTION mine() DEPENDS ON EXTENSION visrec")
    posts.execute("ALTER FUNCTION similar_others(int) DEPENDS ON EXTENSION visrec")
    posts.execute("CREATE TABLE others (id int)")
    posts.execute("DROP TABLE posts, others")
    assert posts.execute("SELECT mine(), similar_others(1)").fetchone() == (1, 1)


def test_a_renamed_schema_does_not_mix_tables(posts, tenant, paths):
    """After ALTER SCHEMA … RENAME searches are of the same table, not of one by its name."""
    insert(tenant_posts(tenant), paths[:4])
    tenant.execute("ALTER SCHEMA theirs RENAME TO moved")
    tenant.execute("CREATE SCHEMA theirs")
    tenant.execute("CREATE TABLE theirs.posts (LIKE moved.posts INCLUDING ALL)")
    tenant.execute("INSERT INTO theirs.posts SELECT * FROM moved.posts WHERE id <> 2")
    found = tenant.execute("SELECT id FROM moved.similar_posts(1, 10)").fetchall()
    assert sorted(found) == [(2,), (3,), (4,)]


# 6. Long names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [48, 50, 54, 55, 62, 63])
@pytest.mark.parametrize("character", ["x", "é"])
@pytest.mark.one_in(3)
def test_names_that_differ_in_the_last_letter(db, paths, length, character):
    body = (character * 63).encode()[: length - 1].decode(errors="ignore")
    tables = [f"{body}a", f"{body}b"]
    for table, some in zip(tables, (paths[:3], paths[3:8]), strict=True):
        name = sql.Identifier(table)
        db.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, image_path text)").format(name))
        db.execute(
            sql.SQL("INSERT INTO {} SELECT n, p FROM unnest(%s::text[])"
                    " WITH ORDINALITY AS u (p, n)").format(name), (some,),
        )  # fmt: skip
        db.execute("SELECT visrec.attach(%s::regclass, model => 'pixels')", (f'"{table}"',))
        db.execute("CALL visrec.backfill(%s::regclass)", (f'"{table}"',))
    for table, rows in zip(tables, (3, 5), strict=True):
        [(number,)] = db.execute(
            "SELECT id FROM visrec.attachment WHERE relation = %s::regclass", (f'"{table}"',)
        ).fetchall()
        functions = db.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosrc ~"
            " format('visrec\\._similar(_%%1$s\\(|\\(%%1$s,)', %s::int)", (number,)
        ).fetchall()  # fmt: skip
        assert len(functions) == 1
        found = db.execute(
            sql.SQL("SELECT image_path FROM {}(1, 10)").format(sql.Identifier(functions[0][0]))
        ).fetchall()
        assert len(found) == rows - 1
        held = db.execute(sql.SQL("SELECT image_path FROM {}").format(sql.Identifier(table)))
        assert set(found) <= set(held.fetchall())
        assert coverage(db, f'"{table}"') == {"embedded": rows}
    [(names, distinct)] = db.execute(
        "SELECT count(*), count(DISTINCT (proname, proargtypes::text)) FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace AND prosrc LIKE '%visrec.\\_%'"
    ).fetchall()
    assert names == distinct


# 10. Work that is cancelled ----------------------------------------------------------------------


def test_cancelled_components_leave_the_encoder_free(db, posts, paths, connect):
    """Nobody waits for the work of a statement that is gone."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    insert(posts, paths[:1])
    other = connect(autocommit=True)
    other.execute("SET statement_timeout = '1s'")
    with pytest.raises(psycopg.Error) as caught:
        other.execute(
            "SELECT visrec._checked(visrec._principal_components("
            "decode(repeat('3f800000', 7000), 'hex'), 7000, 1))"
        )
    assert not isinstance(caught.value, psycopg.errors.ObjectNotInPrerequisiteState)
    began = time.monotonic()
    insert(posts, paths[1:4], first=2)
    assert time.monotonic() - began < 5
    assert coverage(posts) == {"embedded": 4}


def test_an_insert_beside_running_components(db, posts, paths, connect):
    insert(posts, paths[:1])
    other = connect(autocommit=True)
    ended = threading.Event()

    def run():
        with contextlib.suppress(psycopg.Error):
            other.execute("SET statement_timeout = '8s'")
            other.execute(
                "SELECT visrec._principal_components("
                "decode(repeat('3f800000', 7000), 'hex'), 7000, 1)"
            )
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    insert(posts, paths[1:2], first=2)
    waited = time.monotonic() - began
    other.cancel()
    thread.join()
    assert waited < 5


# 12. Rows of partitions --------------------------------------------------------------------------


@pytest.fixture
def parts(db, paths):
    """A partitioned table with two rows in each of its partitions."""
    db.execute("CREATE TABLE parts (id int PRIMARY KEY, image_path text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)")
    db.execute("CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (100) TO (200)")
    db.execute("SELECT visrec.attach('parts', model => 'pixels')")
    db.execute("INSERT INTO parts VALUES (1, %s), (2, %s), (101, %s), (102, %s)", tuple(paths[:4]))
    return db


def same_picture(connection, table, row, path):
    """Whether a row's vector is that of the picture."""
    return connection.execute(
        f"SELECT content_vector <=> visrec.embed_image(%s, 'pixels') < 1e-6 FROM {table} WHERE"
        f" id = %s",
        (path, row),
    ).fetchone() == (True,)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_updates_of_different_rows_do_not_wait(parts, connect, paths, level):
    """One UPDATE of a partition itself leaves nothing behind that others wait for."""
    parts.execute("UPDATE part_1 SET image_path = %s WHERE id = 1", (paths[5],))
    first, second, third = (connect() for _ in range(3))
    for session in (first, second, third):
        session.execute(f"SET default_transaction_isolation = '{level}'")
        session.commit()
        session.execute("SET lock_timeout = '2s'")
    first.execute("UPDATE parts SET image_path = %s WHERE id = 2", (paths[6],))
    second.execute("UPDATE part_2 SET image_path = %s WHERE id = 101", (paths[7],))
    third.execute("UPDATE parts SET image_path = %s WHERE id = 102", (paths[8],))
    if level == "SERIALIZABLE":
        first.commit()
        with contextlib.suppress(psycopg.errors.SerializationFailure):
            second.commit()
        with contextlib.suppress(psycopg.errors.SerializationFailure):
            third.commit()
    else:
        for session in (second, third, first):
            session.commit()
    assert parts.execute("SELECT to_regclass('visrec.queue')").fetchone() == (None,)
    parts.execute("CALL visrec.backfill('parts')")
    assert coverage(parts, "parts") == {"embedded": 4}
    for row, path in parts.execute("SELECT id, image_path FROM parts").fetchall():
        assert same_picture(parts, "parts", row, path)


def test_partitions_that_are_written_themselves(parts, paths):
    """INSERT, UPDATE, moving a row, ATTACH and DETACH: what is not embedded at once is pending."""
    parts.execute("INSERT INTO part_1 VALUES (3, %s)", (paths[4],))
    parts.execute("UPDATE part_2 SET image_path = %s WHERE id = 101", (paths[5],))
    parts.execute("UPDATE parts SET id = 150 WHERE id = 1")
    parts.execute("CREATE TABLE part_3 (LIKE parts INCLUDING ALL)")
    parts.execute("INSERT INTO part_3 VALUES (201, %s)", (paths[6],))
    parts.execute("ALTER TABLE parts ATTACH PARTITION part_3 FOR VALUES FROM (200) TO (300)")
    states = coverage(parts, "parts")
    assert sum(states.values()) == 6
    assert set(states) <= {"embedded", "pending"}
    parts.execute("CALL visrec.backfill('parts')")
    assert coverage(parts, "parts") == {"embedded": 6}
    for row, path in parts.execute("SELECT id, image_path FROM parts").fetchall():
        assert same_picture(parts, "parts", row, path)
    parts.execute("ALTER TABLE parts DETACH PARTITION part_2")
    parts.execute("DROP TABLE part_2")
    assert sum(coverage(parts, "parts").values()) == 3
