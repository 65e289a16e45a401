"""What an owner's code can leave behind for an administrator, a monitor, or another owner."""

import threading
from pathlib import Path

import psycopg
import pytest

from .conftest import coverage
from .test_strangers import alice, become, loot

__all__ = ["alice"]

SPY = """
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN NULL; END $$
"""
DEFERRED = (
    "CREATE TABLE {t} (n int)",
    "CREATE CONSTRAINT TRIGGER spy AFTER INSERT ON {t} DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION spy()",
)


def policy(db, table, does):
    """An attached table of eve's, whose policy does something when an administrator looks."""
    become(
        db,
        "eve",
        f"CREATE TABLE {table} (id int PRIMARY KEY, image_path text)",
        f"SELECT visrec.attach('{table}', model => 'pixels')",
        f"INSERT INTO {table} VALUES (1, NULL)",
        f"CREATE FUNCTION {table}_policy() RETURNS boolean LANGUAGE plpgsql AS"
        f" $$ BEGIN IF session_user <> 'visrec_eve' THEN {does}; END IF; RETURN true; END $$",
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY p ON {table} USING ({table}_policy())",
    )


def superuser(db):
    become(db, None)
    return db.execute("SELECT current_user").fetchone()[0]


COVERAGE = (
    "SELECT a.relation, c.* FROM visrec.attached AS a, visrec.coverage(a.relation, a.name) AS c"
)


@pytest.mark.parametrize("monitor", [False, True])
def test_deferred_triggers_are_undone_with_what_read_the_table(alice, monitor):
    db = alice
    policy(db, "one", "INSERT INTO eve.t VALUES (1)")
    policy(db, "two", "INSERT INTO eve.d VALUES (1); DROP TABLE IF EXISTS eve.t")
    become(db, "eve", SPY, *(s.format(t=t) for t in "td" for s in DEFERRED))
    become(db, None)
    if monitor:
        db.execute("CREATE ROLE visrec_monitor")
        db.execute("SELECT visrec.grant_access('visrec_monitor', 'monitor')")
        db.execute("SET SESSION AUTHORIZATION visrec_monitor")
    rows = db.execute(COVERAGE).fetchall()
    assert ("eve.one", "no_image", 1) in rows
    assert ("eve.two", "no_image", 1) in rows
    if monitor:
        become(db, None)
        db.execute("DROP OWNED BY visrec_monitor")
        db.execute("DROP ROLE visrec_monitor")
    assert loot(db) == set()
    assert db.execute("SELECT count(*) FROM eve.d").fetchone() == (0,)
    assert db.execute("SELECT to_regclass('eve.t')").fetchone() == ("eve.t",)


def test_an_old_snapshot_hides_no_deferred_trigger(alice, postgresql):
    db = alice
    policy(db, "one", "PERFORM pg_sleep(1); INSERT INTO eve.d VALUES (1)")
    become(db, "eve", SPY, DEFERRED[0].format(t="d"))
    become(db, None)
    other = psycopg.connect(postgresql.info.dsn, password=postgresql.info.password, autocommit=True)

    def make_trigger():
        with other:
            other.execute("SELECT pg_sleep(0.4)")
            other.execute("SET SESSION AUTHORIZATION visrec_eve")
            other.execute("SET search_path = eve")
            other.execute(DEFERRED[1].format(t="d"))

    thread = threading.Thread(target=make_trigger)
    thread.start()
    with db.transaction():
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert coverage(db, "eve.one")["no_image"] == 1
    thread.join()
    assert loot(db) == set()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "in a REPEATABLE READ transaction"),
        ("SET LOCAL track_counts = off", "while track_counts is off"),
    ],
)
def test_what_writes_for_an_owner_must_see_what_is_left(alice, setting, message):
    if message.endswith("off") and alice.info.server_version >= 180000:
        pytest.skip("since PostgreSQL 18 deferred triggers run as the role that caused them")
    become(alice, None)
    alice.execute("BEGIN")
    alice.execute(setting)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=message):
        alice.execute("SELECT visrec.retry('alice.posts')")
    alice.execute("ROLLBACK")


def test_a_statement_prepared_in_the_same_message_is_not_swapped(alice):
    db = alice
    policy(
        db,
        "one",
        "EXECUTE 'DEALLOCATE st'; EXECUTE $q$PREPARE st AS SELECT 'eve''s'$q$",
    )
    become(db, None)
    calls = "SELECT count(*) FROM visrec.coverage('eve.one')"
    prepare = "PREPARE st AS SELECT 'the administrator''s'"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="prepares a statement"):
        db.execute(f"{prepare}; SELECT * FROM visrec._call(1, 'coverage'); {calls}")
    db.execute("DEALLOCATE ALL")
    db.execute(prepare)
    db.execute(calls)  # a WARNING: coverage goes on to the next table
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        db.execute("EXECUTE st")


def test_nothing_else_stays_of_what_read_the_table(alice):
    db = alice
    policy(
        db,
        "one",
        "PERFORM set_config('app.tenant', 'eve', false),"
        " set_config('visrec.released', 'busy', false), set_config('hnsw.ef_search', '1', false),"
        " set_config('plpgsql.extra_errors', 'all', false);"
        " CREATE TEMPORARY TABLE left_over ()",
    )
    become(db, None)
    db.execute("SET app.tenant = 'alice'")
    assert coverage(db, "eve.one")["no_image"] == 1
    names = ("app.tenant", "visrec.released", "hnsw.ef_search", "plpgsql.extra_errors")
    now = [db.execute("SELECT current_setting(%s, true)", (n,)).fetchone()[0] for n in names]
    assert [setting or None for setting in now] == ["alice", None, "40", "none"]
    assert db.execute("SELECT to_regclass('pg_temp.left_over')").fetchone() == (None,)


def test_a_monitor_runs_no_policy_as_itself(alice):
    db = alice
    become(
        db,
        "eve",
        "CREATE TABLE q (id int PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('q', model => 'pixels')",
        "INSERT INTO q VALUES (1, NULL)",
        "CREATE FUNCTION look() RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE WARNING 'look: %', current_user; RETURN true; END $$",
        "ALTER TABLE q ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON q USING (look())",
        "GRANT SELECT ON q TO PUBLIC",
    )
    become(db, None)
    db.execute("CREATE ROLE visrec_monitor")
    db.execute("SELECT visrec.grant_access('visrec_monitor', 'monitor')")
    heard = []
    db.add_notice_handler(lambda d: heard.append(d.message_primary))
    db.execute("SET SESSION AUTHORIZATION visrec_monitor")
    assert ("eve.q", "no_image", 1) in db.execute(COVERAGE).fetchall()
    become(db, None)
    db.execute("DROP OWNED BY visrec_monitor")
    db.execute("DROP ROLE visrec_monitor")
    assert not [message for message in heard if "visrec_monitor" in message]


def plant(db, does):
    """A table of eve's with a trigger, and a row whose vector visrec.retry takes away."""
    become(
        db,
        "eve",
        "CREATE TABLE w (id int PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('w', model => 'pixels')",
        "ALTER TABLE w DISABLE TRIGGER USER",
        "INSERT INTO w (id, content_vector, content_vector_source)"
        " SELECT 1, ('[1' || repeat(',0', 511) || ']')::vector, '{1,1}'",
        "ALTER TABLE w ENABLE TRIGGER USER",
        "CREATE FUNCTION plant() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {does} RETURN NEW; END $$",
        "CREATE TRIGGER a BEFORE UPDATE ON w FOR EACH ROW EXECUTE FUNCTION plant()",
    )
    become(db, None)


@pytest.mark.parametrize(
    "call",
    [
        "SELECT visrec.retry('eve.w')",
        "CALL visrec.backfill('eve.w')",
        "SELECT visrec.recheck('eve.w')",
    ],
)
def test_an_administrator_writes_no_table_with_code_of_its_owners(alice, call):
    """What it could leave is more than can be looked for: masked settings, cursors."""
    db = alice
    plant(
        db,
        "PERFORM set_config('search_path', 'eve, pg_catalog', false),"
        " set_config('search_path', 'pg_catalog, pg_temp', true);",
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="code of others"):
        db.execute(call)
    assert db.execute("SHOW search_path").fetchone() == ('"$user", public',)
    become(db, "eve", call)
    become(db, None)
    db.execute("DROP TRIGGER a ON eve.w")
    db.execute("ALTER TABLE eve.w ADD CHECK (id > 0)")  # of PostgreSQL's own functions
    db.execute(call)
    db.execute('ALTER SCHEMA eve RENAME TO "Eve\'s shop"')
    db.execute(call.replace("'eve.w'", """'"Eve''s shop".w'"""))
    db.execute('ALTER SCHEMA "Eve\'s shop" RENAME TO eve')


def test_a_percent_sign_in_the_name_of_pgvectors_schema(db):
    db.execute('ALTER SCHEMA public RENAME TO "x%1$s\'y"')
    db.execute("CREATE SCHEMA public")
    db.execute("CREATE TABLE public.t (id int PRIMARY KEY, image_path bytea)")
    db.execute("SELECT visrec.attach('public.t', model => 'pixels')")
    db.execute(
        "INSERT INTO t SELECT n, convert_to(format(E'P3 1 1 255 %s %s 0', n, 2 * n), 'UTF8')"
        " FROM generate_series(1, 30) AS n"
    )
    for method in ("hnsw_half", "hnsw_binary", "ivfflat", "hnsw"):
        db.execute("CALL visrec.reindex('t', %s)", (method,))
        assert len(db.execute("SELECT * FROM similar_t(1, 5)").fetchall()) == 5
        assert (
            len(db.execute('SELECT * FROM similar_t(1, 5, \'{"id": {"lt": 20}}\')').fetchall()) == 5
        )
    db.execute("SELECT visrec.reduce('t', 4)")
    assert len(db.execute("SELECT * FROM similar_t(1, 5)").fetchall()) == 5


# Lines -------------------------------------------------------------------------------------------


def test_a_line_that_is_gone_changes_nothing_else(alice):
    db = alice
    become(
        db,
        "eve",
        "CREATE TABLE e (id int PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('e', model => 'pixels')",
    )
    become(db, None)
    number = db.execute("SELECT id FROM visrec.attachment WHERE name = 'e'").fetchone()[0]
    become(
        db,
        "eve",
        f"CREATE VIEW keep AS SELECT id FROM visrec._similar_{number}(1, 1, NULL, NULL, false)",
        "UPDATE visrec.own_attachment SET gone = true, relation = relation, operators ="
        f" ARRAY['OPERATOR(pg_catalog.=) ANY (ARRAY[eve.f()])', '>'] WHERE id = {number}",
    )
    become(db, None)
    found = db.execute(
        "SELECT count(*) FROM pg_proc"
        " WHERE pronamespace = 'visrec'::regnamespace AND prosrc ~ 'eve\\.f'"
    ).fetchone()
    assert found == (0,)


def test_no_line_takes_the_functions_of_another_table(alice):
    """As after a restore without the data of visrec.attachment: its functions are there."""
    db = alice
    become(db, None)
    number = db.execute("SELECT id FROM visrec.attachment WHERE name = 'posts'").fetchone()[0]
    db.execute("ALTER TABLE visrec.attachment DISABLE TRIGGER USER")
    db.execute("DELETE FROM visrec.attachment")
    db.execute("ALTER TABLE visrec.attachment ENABLE TRIGGER USER")
    become(
        db,
        "eve",
        "CREATE TABLE e (id int PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('e', model => 'pixels')",
    )
    statements = (
        f"UPDATE visrec.own_attachment SET gone = true, relation = relation, id = {number}",
        f"UPDATE visrec.own_attachment SET id = {number}",
        f"UPDATE visrec.own_attachment SET id = {number}, relation = relation",
    )
    for statement in statements:
        try:
            with db.transaction():
                db.execute(statement)
                become(db, None)
                owner = db.execute(
                    "SELECT proowner::regrole::text FROM pg_proc"
                    f" WHERE proname = '_trigger_{number}'"
                )
                assert owner.fetchone() == ("visrec_alice",)
                raise psycopg.Rollback
        except psycopg.errors.InsufficientPrivilege:
            pass
        become(db, "eve")
    become(db, None)
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match="belongs to triggers of another table"
    ):
        db.execute(f"UPDATE visrec.attachment SET id = {number}, relation = relation")


def fill(db, table, pictures):
    for number, picture in enumerate(sorted(f for f in pictures.rglob("*") if f.is_file())[:6], 1):
        db.execute(f"INSERT INTO {table} VALUES (%s, %s)", (number, picture.read_bytes()))


# Names -------------------------------------------------------------------------------------------


def test_a_renamed_schema_brings_no_other_table(alice, pictures):
    db = alice
    become(db, None)
    db.execute(f"GRANT CREATE ON DATABASE {db.info.dbname} TO visrec_eve")
    db.execute("CREATE SCHEMA s AUTHORIZATION visrec_alice")
    become(
        db,
        "alice",
        "CREATE TABLE s.b (id int PRIMARY KEY, image_path bytea)",
        "SELECT visrec.attach('s.b', model => 'pixels')",
    )
    fill(db, "s.b", pictures)
    wanted = db.execute("SELECT id FROM s.similar_b(1, 3)").fetchall()
    assert len(wanted) == 3
    become(db, None)
    db.execute("ALTER SCHEMA s OWNER TO visrec_eve")
    become(
        db,
        "eve",
        "GRANT USAGE ON SCHEMA s TO PUBLIC",
        "ALTER SCHEMA s RENAME TO s2",
        "CREATE SCHEMA s",
        "GRANT USAGE ON SCHEMA s TO PUBLIC",
        "CREATE FUNCTION s.spy() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN 0; END $$",
        "CREATE VIEW s.b AS SELECT id, NULL::bytea AS image_path,"
        " array_fill(0.1::real, ARRAY[512])::vector(512) AS content_vector,"
        " ARRAY[0, 0]::bigint[] AS content_vector_source FROM (SELECT s.spy() AS id OFFSET 0) AS v",
        "GRANT SELECT ON s.b TO PUBLIC",
    )
    become(db, "alice")
    assert db.execute("SELECT id FROM s2.similar_b(1, 3)").fetchall() == wanted
    assert len(db.execute("SELECT id FROM s2.recommend_b(ARRAY[1, 2], k => 3)").fetchall()) == 3
    db.execute("SELECT * FROM visrec.recall('s2.b', 3, 2)")
    assert loot(db) == set()


def test_planned_searches_ask_whether_their_names_hold(alice, pictures):
    """Also where nothing made them anew, as with event triggers disabled."""
    db = alice
    become(db, None)
    db.execute("ALTER EVENT TRIGGER visrec_follow_table DISABLE")
    db.execute("CREATE SCHEMA s")
    db.execute("CREATE TABLE s.b (id int PRIMARY KEY, image_path bytea)")
    db.execute("SELECT visrec.attach('s.b', model => 'pixels')")
    fill(db, "s.b", pictures)
    wanted = db.execute("SELECT * FROM s.similar_b(1, 3)").fetchall()
    taste = db.execute("SELECT * FROM s.recommend_b(ARRAY[1, 2], k => 3)").fetchall()
    assert len(wanted) == len(taste) == 3
    db.execute("ALTER SCHEMA s RENAME TO s2")
    db.execute("CREATE SCHEMA s")
    db.execute("CREATE TABLE s.b AS SELECT * FROM s2.b")
    db.execute("UPDATE s.b SET content_vector = (SELECT content_vector FROM s2.b WHERE id = 5)")
    assert db.execute("SELECT * FROM s2.similar_b(1, 3)").fetchall() == wanted
    assert db.execute("SELECT * FROM s2.recommend_b(ARRAY[1, 2], k => 3)").fetchall() == taste


def test_pgvectors_schema_renamed_brings_no_other_functions(alice, pictures):
    db = alice
    become(
        db,
        "alice",
        "CREATE TABLE b (id int PRIMARY KEY, image_path bytea)",
        "SELECT visrec.attach('b', model => 'pixels')",
    )
    fill(db, "b", pictures)
    wanted = db.execute("SELECT id FROM similar_b(1, 3)").fetchall()
    assert len(wanted) == 3
    become(db, None)
    schema = db.execute(
        "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()[0]
    db.execute(f"GRANT CREATE ON DATABASE {db.info.dbname} TO visrec_eve")
    if schema != "public":
        pytest.skip("pgvector is not in public here")
    db.execute("ALTER SCHEMA public OWNER TO visrec_eve")
    db.execute("CREATE TABLE alice.loot AS SELECT current_user AS who WHERE false")
    db.execute("GRANT ALL ON alice.loot TO PUBLIC")
    become(db, "eve")
    for statement in (
        "ALTER SCHEMA public RENAME TO public2",
        "CREATE SCHEMA public",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
        "CREATE DOMAIN public.vector AS public2.vector",
        "CREATE OPERATOR public.<=> (LEFTARG = public2.vector, RIGHTARG = public2.vector,"
        " FUNCTION = public2.cosine_distance)",
        "CREATE FUNCTION public.subvector(public2.vector, int, int)"
        " RETURNS public2.vector LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO alice.loot VALUES (current_user); RETURN $1; END $$",
    ):
        db.execute(statement)
    become(db, None)
    assert db.execute("SELECT id FROM alice.similar_b(1, 3)").fetchall() == wanted
    assert db.execute("SELECT * FROM alice.loot").fetchall() == []
    db.execute("DROP SCHEMA public CASCADE")
    db.execute("ALTER SCHEMA public2 RENAME TO public")


def test_a_renamed_operator_is_not_replaced(db):
    db.execute("CREATE SCHEMA s")
    db.execute("CREATE EXTENSION citext SCHEMA s")
    db.execute("CREATE TABLE k (id s.citext PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('k', model => 'pixels')")
    db.execute("ALTER EVENT TRIGGER visrec_follow_table DISABLE")
    db.execute("ALTER SCHEMA s RENAME TO s2")
    held = "SELECT (visrec._resolve(id)).equals FROM visrec.attachment WHERE name = 'k'"
    assert db.execute(held).fetchone() == ("OPERATOR(s2.=)",)


def test_a_strangers_temporary_sequence_is_seen(alice, pictures):
    db = alice
    become(
        db,
        "alice",
        "CREATE SEQUENCE cnt",
        "CREATE TABLE b (id int PRIMARY KEY, image_path bytea, number int)",
        "SELECT visrec.attach('b', model => 'pixels')",
        "CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.number := nextval('cnt'); RETURN NEW; END $$",
        "CREATE TRIGGER t BEFORE UPDATE ON b FOR EACH ROW EXECUTE FUNCTION number()",
        "GRANT INSERT ON b TO visrec_eve",
    )
    become(
        db, "eve", "CREATE TEMPORARY SEQUENCE cnt START 666", "GRANT ALL ON SEQUENCE cnt TO PUBLIC"
    )
    fill(db, "alice.b", pictures)
    become(db, None)
    assert db.execute("SELECT count(number), count(content_vector) FROM alice.b").fetchone() == (
        0,
        0,
    )


def test_rows_in_a_strangers_schema_are_kept_without_a_vector(alice, pictures):
    """Its owner could give the table's name to another between the embedding and the write."""
    db = alice
    become(db, None)
    db.execute("CREATE SCHEMA s AUTHORIZATION visrec_alice")
    become(
        db,
        "alice",
        "CREATE TABLE s.b (id int PRIMARY KEY, image_path bytea)",
        "CREATE TABLE s.c (id int PRIMARY KEY, image_path bytea)",
        "SELECT visrec.attach('s.b', model => 'pixels')",
    )
    become(db, None)
    db.execute("ALTER SCHEMA s OWNER TO visrec_eve")
    db.execute("GRANT ALL ON SCHEMA s TO visrec_alice")
    become(db, "alice")
    fill(db, "s.b", pictures)
    assert db.execute("SELECT count(*), count(content_vector) FROM s.b").fetchone() == (6, 0)
    for call in ("CALL visrec.backfill('s.b')", "SELECT visrec.attach('s.c', model => 'pixels')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="give to something else"):
            db.execute(call)
    become(db, None)
    db.execute("ALTER SCHEMA s OWNER TO visrec_alice")
    become(db, "alice", "CALL visrec.backfill('s.b')")
    assert db.execute("SELECT count(content_vector) FROM s.b").fetchone() == (6,)


def test_a_domain_by_the_name_of_pgvectors_type_runs_nothing(alice, pictures):
    """PL/pgSQL runs the CHECK of a domain where a variable of it is declared."""
    db = alice
    become(
        db,
        "alice",
        "CREATE TABLE b (id int PRIMARY KEY, image_path bytea)",
        "SELECT visrec.attach('b', model => 'pixels')",
    )
    fill(db, "b", pictures)
    become(db, None)
    db.execute("ALTER EVENT TRIGGER visrec_follow_table DISABLE")
    db.execute("SELECT visrec.reduce('alice.b', 4)")
    number = db.execute("SELECT id FROM visrec.attachment WHERE name = 'b'").fetchone()[0]
    for statement in (
        "ALTER SCHEMA public RENAME TO public2",
        "CREATE SCHEMA public",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
        "CREATE TABLE alice.loot (who name)",
        "CREATE FUNCTION public.spy(public2.vector) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO alice.loot VALUES (current_user); RETURN true; END $$",
        "CREATE DOMAIN public.vector AS public2.vector CHECK (public.spy(VALUE))",
    ):
        db.execute(statement)
    assert len(db.execute("SELECT * FROM alice.similar_b(1, 3)").fetchall()) == 3
    vector = "SELECT content_vector FROM alice.b WHERE id = 1"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="in another schema"):
        db.execute(f"SELECT visrec._project_{number}_1(({vector}))")
    assert db.execute("SELECT * FROM alice.loot").fetchall() == []
    db.execute("DROP SCHEMA public CASCADE")
    db.execute("ALTER SCHEMA public2 RENAME TO public")


def test_searches_are_renewed_by_nobody_but_a_statement(alice):
    become(alice, "eve")
    with pytest.raises(psycopg.errors.Error, match="event trigger"):
        alice.execute("SELECT visrec._renew_searches(1)")


def test_events_are_what_one_may_read(alice):
    """Or each ALTER TABLE of theirs would look at the attachment that names them."""
    db = alice
    become(db, "alice", "CREATE TABLE orders (a int, b int, c int, d int)")
    become(
        db,
        "eve",
        "CREATE TABLE e (id int PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('e', model => 'pixels')",
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.execute(
            "UPDATE visrec.own_attachment SET events = 'alice.orders'::regclass::oid,"
            " event_columns = '{a,b,c,d}'"
        )


def test_an_administrator_acts_for_no_owner_beside_connections_of_dblink(alice, postgresql):
    db = alice
    become(db, None)
    db.execute("CREATE EXTENSION dblink")
    info = postgresql.info
    connection = f"host={info.host} port={info.port} dbname={info.dbname} user={info.user}"
    connection += f" password={info.password}"
    for name in ("'mine', ", ""):
        db.execute(f"SELECT dblink_connect({name}%s)", (connection,))
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="dblink"):
            db.execute("SELECT * FROM visrec.coverage('alice.posts')")
        db.execute(f"SELECT dblink_disconnect({name.rstrip(', ')})")
    assert coverage(db, "alice.posts") == {}
    with pytest.raises(psycopg.Error, match="beside the one that is there"):
        db.execute("CALL visrec.reindex('alice.posts', connection => %s)", (connection,))


# Installing --------------------------------------------------------------------------------------

BOUND = """
SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0),
    pg_describe_object(d.refclassid, d.refobjid, 0)
FROM pg_depend AS d
JOIN pg_depend AS m ON m.classid = d.classid AND m.objid = d.objid AND m.deptype = 'e'
JOIN pg_extension AS e ON e.oid = m.refobjid AND e.extname = 'visrec'
WHERE EXISTS (
    SELECT FROM pg_proc AS p
    WHERE d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid AND p.prosrc ~ 'trap'
    UNION ALL SELECT FROM pg_operator AS o
    WHERE d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
      AND o.oprcode::text ~ 'trap')
"""
TRAPS = Path(__file__).parent / "traps.sql"


@pytest.mark.slow
def test_the_install_script_takes_nothing_from_pgvectors_schema(db, postgresql):
    """Anything there may be an ordinary role's: it must neither run nor be bound."""
    db.execute("CREATE DATABASE visrec_traps TEMPLATE template0")
    info = postgresql.info
    try:
        with psycopg.connect(
            info.dsn, password=info.password, dbname="visrec_traps", autocommit=True
        ) as own:
            own.execute("SET client_min_messages = warning")
            own.execute(TRAPS.read_bytes())
            own.execute("CREATE EXTENSION visrec CASCADE")
            bound = own.execute(BOUND).fetchall()
            assert bound == []
            own.execute("CREATE TABLE t (id int PRIMARY KEY, image_path text)")
            own.execute("SELECT visrec.attach('t', model => 'pixels')")
            own.execute("SELECT * FROM similar_t(1)")
            own.execute("DROP EXTENSION visrec CASCADE")
    finally:
        db.execute("DROP DATABASE visrec_traps WITH (FORCE)")
