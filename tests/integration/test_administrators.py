"""What administrators write for an owner whom they need not trust: it sets off no code."""

import threading
import time

import psycopg
import pytest

from .conftest import coverage, notices, waits
from .test_strangers import alice, become, loot

__all__ = ["alice"]

BACKFILL = "CALL visrec.backfill('eve.e')"
# Run by eve's code, wherever it gets to: later it runs as whoever ends the transaction.
SPY = (
    "CREATE TABLE d (n int)",
    "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER spy AFTER INSERT ON d DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION spy()",
    "CREATE FUNCTION really() RETURNS boolean LANGUAGE plpgsql AS"
    " $$ BEGIN IF session_user <> 'visrec_eve' THEN INSERT INTO public.loot VALUES (current_user);"
    " INSERT INTO eve.d VALUES (1); END IF; RETURN true; END $$",
    "CREATE FUNCTION go() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS"
    " $$ BEGIN RETURN eve.really(); END $$",
    "CREATE FUNCTION go_too() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM eve.go(); RETURN NEW; END $$",
)
KID = (
    "CREATE TABLE kid (g bigint REFERENCES e (g) ON UPDATE CASCADE)",
    "INSERT INTO kid SELECT g FROM e WHERE id = 1",
    "CREATE TRIGGER k BEFORE UPDATE ON kid FOR EACH ROW EXECUTE FUNCTION go_too()",
)
GENERATED = (
    "ALTER TABLE e ADD g bigint GENERATED ALWAYS AS"
    " (CASE WHEN content_vector IS NULL THEN id ELSE -id END) STORED UNIQUE"
)
RUNS_CODE = {
    "trigger": (
        "CREATE TRIGGER t BEFORE UPDATE ON e FOR EACH ROW EXECUTE FUNCTION go_too()",
        'Trigger "t"',
    ),
    "a trigger of visrec's function": (
        "DO $$ BEGIN EXECUTE (SELECT format('CREATE TRIGGER t BEFORE UPDATE ON e FOR EACH ROW"
        " WHEN (eve.go()) EXECUTE FUNCTION visrec._trigger_%s()', id) FROM visrec.attachment"
        " WHERE name = 'e'); END $$",
        'Trigger "t"',
    ),
    "check": ("ALTER TABLE e ADD CONSTRAINT c CHECK (go()) NOT VALID", 'Constraint "c"'),
    "a check that runs text": (
        "ALTER TABLE e ADD CONSTRAINT c"
        " CHECK (query_to_xml('SELECT eve.go()', true, true, '') IS NOT NULL) NOT VALID",
        'Constraint "c"',
    ),
    "a check that sets a setting": (
        "ALTER TABLE e ADD CONSTRAINT c"
        " CHECK (set_config('app.tenant', 'eve', false) <> '') NOT VALID",
        'Constraint "c"',
    ),
    "an operator": (
        "DO $$ BEGIN CREATE FUNCTION eq(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS"
        " 'SELECT eve.go()'; CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = eq);"
        " ALTER TABLE e ADD CONSTRAINT c CHECK (image_path === 'x') NOT VALID; END $$",
        'Constraint "c"',
    ),
    "a cast to a domain": (
        "DO $$ BEGIN CREATE DOMAIN dom AS text CHECK (eve.go());"
        " ALTER TABLE e ADD CONSTRAINT c CHECK (image_path::dom <> '') NOT VALID; END $$",
        'Constraint "c"',
    ),
    "generated column": (
        "ALTER TABLE e ADD g boolean GENERATED ALWAYS AS (go()) STORED",
        'Generated column "g"',
    ),
    "index": (
        "CREATE INDEX i ON e ((go()))",
        'Index "i"',
    ),
    "index condition": ("CREATE INDEX i ON e (id) WHERE go()", 'Index "i"'),
    "index of a range with a function": (
        "DO $$ BEGIN CREATE FUNCTION diff(int, int) RETURNS float8 LANGUAGE sql IMMUTABLE AS"
        " 'SELECT CASE WHEN eve.go() THEN 0.0::float8 END';"
        " CREATE TYPE span AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = diff);"
        " ALTER TABLE e ADD s span; CREATE INDEX i ON e USING gist (s); END $$",
        'Index "i"',
    ),
    "statistics": (
        "CREATE STATISTICS s ON (id + length(go()::text)), image_path FROM e",
        'Statistics "s"',
    ),
    "rule": ("CREATE RULE r AS ON INSERT TO e DO ALSO SELECT eve.go()", 'Rule "r"'),
    "policy": (
        "CREATE POLICY p ON e USING (go());"
        " ALTER TABLE e ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        'Policy "p"',
    ),
    "a key that another table follows": (
        "; ".join((GENERATED, *KID)),
        'Foreign key "kid_g_fkey" of table "eve.kid"',
    ),
    "foreign key with a cast": (
        "DO $$ BEGIN CREATE TYPE mood AS ENUM ('a');"
        " CREATE FUNCTION evil(mood) RETURNS int LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM eve.go(); RETURN 1; END';"
        " CREATE CAST (mood AS int) WITH FUNCTION evil(mood) AS IMPLICIT;"
        " CREATE TABLE pk (id int PRIMARY KEY); INSERT INTO pk VALUES (1);"
        " ALTER TABLE e ADD m mood REFERENCES pk DEFERRABLE INITIALLY DEFERRED; END $$",
        'Foreign key "e_m_fkey"',
    ),
}


def with_a_pending_row(path, *more):
    """Attaches table ``e``, with a row that came while triggers were off."""
    return (
        "SELECT visrec.attach('e', model => 'pixels')",
        *more,
        "ALTER TABLE e DISABLE TRIGGER USER",
        f"INSERT INTO e VALUES (1, '{path}')",
        "ALTER TABLE e ENABLE TRIGGER USER",
    )


@pytest.fixture
def eves(alice, paths):
    """A table of eve's with a row that is pending, and code of hers to be set off."""
    become(
        alice,
        "eve",
        *SPY,
        "CREATE TABLE e (id bigint PRIMARY KEY, image_path text)",
        *with_a_pending_row(paths[0]),
    )
    return alice


@pytest.mark.parametrize("how", RUNS_CODE)
def test_nothing_is_written_where_code_may_run(eves, how):
    statement, said = RUNS_CODE[how]
    become(eves, "eve", statement)
    become(eves, None)
    eves.execute("DELETE FROM loot")
    for call in (BACKFILL, "SELECT visrec.retry('eve.e')", "SELECT visrec.recheck('eve.e')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            eves.execute(call)
        assert caught.value.diag.message_primary == (
            'to write vectors of table "eve.e" could run code of others in this session'
        )
        assert caught.value.diag.message_detail == (
            f"{said} may run more than PostgreSQL's own code."
        )
    assert loot(eves) == set()


def test_a_partition_key_is_code(eves, paths):
    become(
        eves,
        "eve",
        "DROP TABLE e",
        "CREATE FUNCTION part(text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        " $$ BEGIN PERFORM eve.go(); RETURN 1; END $$",
        "CREATE TABLE top (id bigint, image_path text, content_vector vector(512),"
        " content_vector_source bigint[]) PARTITION BY LIST (part(image_path))",
        "CREATE TABLE e PARTITION OF top FOR VALUES IN (1)",
        "ALTER TABLE e ADD PRIMARY KEY (id)",
        *with_a_pending_row(paths[0]),
    )
    become(eves, None)
    eves.execute("DELETE FROM loot")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        eves.execute(BACKFILL)
    assert caught.value.diag.message_detail == (
        'Partition key of table "eve.top" may run more than PostgreSQL\'s own code.'
    )
    assert loot(eves) == set()


def test_who_may_refer_to_a_table_runs_nothing_as_its_owner(eves, paths):
    """A stranger's table follows a generated key of alice's."""
    become(
        eves,
        "alice",
        "CREATE TABLE e (id bigint PRIMARY KEY, image_path text)",
        "GRANT USAGE ON SCHEMA alice TO visrec_eve",
        *with_a_pending_row(paths[0], GENERATED, "GRANT REFERENCES (g), SELECT ON e TO visrec_eve"),
    )
    become(eves, "eve", *(s.replace(" e ", " alice.e ") for s in KID))
    become(eves, None)
    for role in (None, "alice"):
        become(eves, role)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"code of (others|a str)"):
            eves.execute("CALL visrec.backfill('alice.e')")
    assert loot(eves) == set()


def test_an_ordinary_table_is_written(eves, paths):
    """As shops have them: checks, keys to and from it, generated columns, all kinds of indexes."""
    become(
        eves,
        "eve",
        "CREATE TYPE state AS ENUM ('draft', 'sold')",
        "CREATE DOMAIN code AS text CHECK (VALUE ~ '^[A-Z]{3}$')",
        "CREATE TABLE kind (id int PRIMARY KEY)",
        "INSERT INTO kind VALUES (1)",
        "ALTER TABLE e ADD price numeric(10, 2) DEFAULT 1 CHECK (price BETWEEN 0 AND 1000),"
        " ADD title text DEFAULT 'Hat'"
        " CHECK (title <> '' AND length(title) < 100 AND lower(title) ~ '^h'),"
        " ADD state state DEFAULT 'draft' CHECK (state IN ('draft', 'sold')),"
        " ADD code code DEFAULT 'ABC',"
        " ADD made timestamptz DEFAULT now() CHECK (made <= now() AND made > DATE '2020-01-01'),"
        " ADD tags text[] DEFAULT '{a}' CHECK (cardinality(tags) < 5 AND tags[1] <> 'b'),"
        " ADD extra jsonb DEFAULT '{}' CHECK (jsonb_typeof(extra) = 'object'),"
        " ADD kind int DEFAULT 1 REFERENCES kind DEFERRABLE INITIALLY DEFERRED,"
        " ADD CHECK (CASE WHEN state = 'sold' THEN price IS NOT NULL ELSE true END),"
        " ADD CHECK (vector_dims(content_vector) = 512),"
        " ADD words tsvector GENERATED ALWAYS AS"
        " (to_tsvector('english', coalesce(title, '') || ' ' || coalesce(code, ''))) STORED",
        "CREATE INDEX ON e USING gin (words)",
        "CREATE INDEX ON e USING gin (extra)",
        "CREATE INDEX ON e (lower(title)) WHERE state = 'draft'",
        "CREATE INDEX ON e (state, price DESC)",
        "ALTER TABLE e ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE POLICY own ON e USING (current_user = 'visrec_eve'"
        " OR current_setting('app.tenant', true) = 'shop')",
        "CREATE TABLE line (item bigint REFERENCES e ON UPDATE CASCADE ON DELETE CASCADE)",
        "INSERT INTO line VALUES (1)",
    )
    become(eves, None)
    eves.execute(BACKFILL)
    assert coverage(eves, "eve.e") == {"embedded": 1}
    assert eves.execute("SELECT visrec.recheck('eve.e'), visrec.retry('eve.e')").fetchone() == (
        0,
        0,
    )


def test_a_superuser_attaches_a_table_with_triggers(eves):
    """There is nothing to write yet."""
    become(
        eves,
        "eve",
        "CREATE TABLE t (id bigint PRIMARY KEY, image_path text)",
        "CREATE TRIGGER t BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION go_too()",
    )
    become(eves, None)
    eves.execute("SELECT visrec.attach('eve.t', model => 'pixels')")
    assert coverage(eves, "eve.t") == {}


def test_a_cursor_is_not_exchanged(eves):
    before = eves.execute("SELECT visrec._session_state(0) -> 'cursors'").fetchone()
    with eves.transaction():
        eves.execute("DECLARE work CURSOR FOR SELECT 1")
        opened = eves.execute("SELECT visrec._session_state(0) -> 'cursors'").fetchone()
        eves.execute("CLOSE work")
        eves.execute("DECLARE work CURSOR FOR SELECT 2")
        other = eves.execute("SELECT visrec._session_state(0) -> 'cursors'").fetchone()
    assert len({str(state) for state in (before, opened, other)}) == 3


def test_a_cursor_is_not_exchanged_in_one_message(eves):
    """All that a message does has its time."""
    become(eves, None)
    state = "SELECT visrec._session_state(0) -> 'cursors'"
    eves.execute(
        "CREATE FUNCTION public.states() RETURNS SETOF jsonb LANGUAGE plpgsql AS $$"
        " DECLARE c CURSOR FOR SELECT 1; d refcursor; BEGIN OPEN c; d := c; "
        f" RETURN QUERY {state}; CLOSE d; OPEN d FOR SELECT 2; RETURN QUERY {state}; END $$"
    )
    first, second = (row for (row,) in eves.execute("SELECT public.states()"))
    assert first != second


FETCHES = (
    "CREATE SEQUENCE taken",
    "CREATE FUNCTION take() RETURNS boolean LANGUAGE plpgsql AS $$"
    " DECLARE c refcursor; taken int; BEGIN"
    " FOREACH c IN ARRAY ARRAY(SELECT name FROM pg_cursors WHERE statement ~ 'salar[y]') LOOP"
    " FETCH c INTO taken; PERFORM setval('eve.taken', taken); END LOOP;"
    " RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END $$",
    "CREATE POLICY p ON e USING (take())",
    "ALTER TABLE e ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
)


@pytest.mark.parametrize("how", ["a loop", "a cursor"])
def test_an_administrators_cursor_is_not_read(eves, how):
    """No error brings back what was fetched, nor what a sequence was set to."""
    become(eves, "eve", *FETCHES)
    become(eves, None)
    eves.execute("CREATE TABLE public.salary AS SELECT generate_series(4711, 4713) AS s")
    heard = notices(eves)
    if how == "a loop":
        eves.execute(
            "DO $$ DECLARE r record; n int := 0; BEGIN FOR r IN SELECT s FROM public.salary LOOP"
            " n := n + 1; PERFORM FROM visrec.coverage('eve.e'); END LOOP; ASSERT n = 3; END $$"
        )
    else:
        with eves.transaction():
            eves.execute("DECLARE c CURSOR FOR SELECT s FROM public.salary")
            eves.execute("SELECT * FROM visrec.coverage('eve.e')")
            assert len(eves.execute("FETCH ALL FROM c").fetchall()) == 3
    assert (
        'could not count the rows of table "eve.e": '
        'to read table "eve.e" could run code of others in a session with open cursors'
    ) in {message for _, message, _ in heard}
    assert eves.execute("SELECT is_called FROM eve.taken").fetchone() == (False,)


def test_ordinary_tables_are_counted_beside_cursors(eves):
    become(eves, None)
    with eves.transaction():
        eves.execute("DECLARE c CURSOR FOR SELECT 1")
        assert coverage(eves, "eve.e") == {"pending": 1}


def test_a_key_that_changes_while_an_administrator_waits_is_looked_at(eves, connect):
    """Into a type with a cast: by then the attachment has been read."""
    become(
        eves,
        "eve",
        "CREATE TYPE key AS ENUM ('1')",
        "CREATE FUNCTION to_key(text) RETURNS key LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM eve.go(); RETURN '1'; END $$",
        "CREATE CAST (text AS key) WITH FUNCTION to_key(text)",
    )
    become(eves, None)
    owner = connect(autocommit=True)
    owner.execute("SET SESSION AUTHORIZATION visrec_eve")
    owner.execute("BEGIN")
    owner.execute("ALTER TABLE eve.e ALTER id TYPE eve.key USING '1'")
    caught = []

    def retry():
        try:
            eves.execute("SELECT visrec.retry('eve.e')")
        except psycopg.Error as error:
            caught.append(error)

    administrator = threading.Thread(target=retry)
    administrator.start()
    watcher = connect(autocommit=True)
    while not waits(watcher, eves):
        time.sleep(0.01)
    owner.execute("COMMIT")
    administrator.join()
    assert [error.diag.message_primary for error in caught] == ['table "eve.e" is being changed']
    assert loot(eves) == set()


def test_a_range_in_an_index_runs_nothing_as_the_owner(eves, paths):
    """Its type's function is asked for where a row goes in the index, once that has inner pages."""
    become(
        eves,
        "eve",
        "GRANT USAGE ON SCHEMA eve TO PUBLIC",
        "CREATE FUNCTION diff(float8, float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS"
        " $$ BEGIN PERFORM eve.really(); RETURN $1 - $2; END $$",
        "CREATE TYPE span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = diff)",
    )
    become(
        eves,
        "alice",
        "CREATE TABLE r (id bigint PRIMARY KEY, image_path text, r eve.span)",
        "SELECT visrec.attach('r', model => 'pixels')",
        "CREATE INDEX ON r USING gist (r)",
    )
    heard = notices(eves)
    eves.execute("INSERT INTO r VALUES (1, %s, '[1,2]')", (paths[0],))
    assert coverage(eves, "r") == {"pending": 1}
    assert heard[0][1] == 'rows of table "alice.r" are kept without a vector'


def test_connections_that_a_policy_opens_are_closed(eves):
    become(eves, None)
    eves.execute("CREATE EXTENSION dblink SCHEMA public")
    info = eves.info
    eves.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC")
    connection = f"host={info.host} port={info.port} dbname={info.dbname} user={info.user}"
    become(
        eves,
        "eve",
        "CREATE FUNCTION pol() RETURNS boolean LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM public.dblink_connect('x', '{connection} password={info.password}');"
        " RETURN true; EXCEPTION WHEN duplicate_object THEN RETURN true; END $$",
        "ALTER TABLE e ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE POLICY p ON e USING (pol())",
    )
    become(eves, None)
    heard = notices(eves)
    for _ in range(2):
        eves.execute("SELECT * FROM visrec.coverage('eve.e')")
    assert [text[:54] for severity, text, _ in heard if severity == "WARNING"] == [
        'could not count the rows of table "eve.e": code of the'
    ] * 2
    assert eves.execute("SELECT public.dblink_get_connections()").fetchone() == (None,)


@pytest.mark.parametrize("monitor", [False, True])
@pytest.mark.parametrize(
    "ends",
    ["RAISE EXCEPTION 'no'", "RAISE EXCEPTION USING ERRCODE = '57014'", "ASSERT false"],
    ids=["error", "cancel", "assert"],
)
def test_statements_that_are_prepared_before_an_error_are_not_left(eves, ends, monitor):
    """No error undoes PREPARE. The driver's own are as good as any."""
    eves.prepare_threshold = None
    become(
        eves,
        "eve",
        "CREATE FUNCTION bad() RETURNS boolean LANGUAGE plpgsql AS"
        " $$ DECLARE s text; BEGIN FOR s IN SELECT name FROM pg_prepared_statements LOOP"
        " EXECUTE format('DEALLOCATE %I', s);"
        " EXECUTE format('PREPARE %I AS SELECT eve.really()', s);"
        f" END LOOP; PREPARE other AS SELECT eve.really(); {ends}; END $$",
        "ALTER TABLE e ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE POLICY p ON e USING (bad())",
    )
    become(eves, "alice", "CREATE TABLE a (id int PRIMARY KEY, image_path text)")
    eves.execute("SELECT visrec.attach('a', model => 'pixels'); INSERT INTO a VALUES (1, NULL)")
    become(eves, None)
    if monitor:
        eves.execute("SELECT visrec.grant_access('visrec_alice', 'monitor')")
        become(eves, "alice")
    eves.execute("PREPARE report AS SELECT 1")
    heard = notices(eves)
    rows = eves.execute(
        "SELECT a.name, c.* FROM visrec.attached AS a, visrec.coverage(a.relation, a.name) AS c"
    ).fetchall()
    assert ("a", "no_image", 1) in rows
    assert [text for severity, text, _ in heard if severity == "WARNING"] == [
        'could not count the rows of table "eve.e": code of the owner of table "eve.e" left'
        " something in this session"
    ]
    left = "SELECT name FROM pg_prepared_statements WHERE statement ~ 'really'"
    assert eves.execute(left).fetchall() == []
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        eves.execute("EXECUTE report")


def test_who_cancels_is_heard(eves):
    become(
        eves,
        "eve",
        "CREATE POLICY p ON e USING (pg_sleep(10) IS NOT NULL)",
        "ALTER TABLE e ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    )
    become(eves, None)
    eves.execute("SET statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        eves.execute("SELECT * FROM visrec.coverage('eve.e')")


def test_nobody_else_holds_schemas(eves):
    become(eves, None)
    eves.execute("SELECT visrec.grant_access('visrec_alice')")
    become(eves, "alice")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner"):
        eves.execute("SELECT visrec._hold_schemas(id) FROM visrec.attachment WHERE name = 'e'")


# Who looks at all tables --------------------------------------------------------------------------


def test_a_table_that_cannot_be_counted_does_not_hide_the_others(eves):
    become(
        eves,
        "eve",
        "ALTER TABLE e ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE POLICY p ON e USING (1 / (id - id) > 0)",
    )
    become(eves, "alice", "CREATE TABLE a (id int PRIMARY KEY, image_path text)")
    eves.execute("SELECT visrec.attach('a', model => 'pixels'); INSERT INTO a VALUES (1, NULL)")
    become(eves, None)
    heard = notices(eves)
    rows = eves.execute(
        "SELECT a.relation, c.* FROM visrec.attached AS a, visrec.coverage(a.relation, a.name) AS c"
    ).fetchall()
    assert ("alice.a", "no_image", 1) in rows
    said = [text for severity, text, _ in heard if severity == "WARNING"]
    assert said == ['could not count the rows of table "eve.e": division by zero']
    become(eves, "eve")
    with pytest.raises(psycopg.errors.DivisionByZero):
        eves.execute("SELECT * FROM visrec.coverage('e')")


@pytest.mark.parametrize(
    "line", ["tuned_rows = 9223372036854775807", "tuned_recall = 'NaN'", "tuned_at = 'infinity'"]
)
def test_no_line_stops_selftest(eves, line):
    become(eves, "eve")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="cannot write to an attachment"):
        eves.execute(f"UPDATE visrec.own_attachment SET {line}")


def test_no_other_table_gets_the_name_while_an_administrator_writes(eves, connect):
    """By its schema: that is renamed without a lock on the tables in it."""
    become(eves, None)
    owner = connect(autocommit=True)
    dbname = eves.info.dbname
    eves.execute(f'GRANT CREATE ON DATABASE "{dbname}" TO visrec_eve')
    owner.execute("SET SESSION AUTHORIZATION visrec_eve")
    with eves.transaction():
        eves.execute("SELECT visrec.retry('eve.e')")
        owner.execute("SET lock_timeout = '300ms'")
        for statement in ("ALTER SCHEMA eve RENAME TO eve2", "ALTER TABLE eve.e RENAME TO e2"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                owner.execute(statement)
    # Nor while it has one: whether or not the attachment could be seen by who renames.
    owner.execute("BEGIN; ALTER SCHEMA eve RENAME TO eve2")
    eves.execute("SET lock_timeout = '300ms'")
    for call in (BACKFILL, "SELECT visrec.retry('eve.e')"):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            eves.execute(call)
    # A new owner is another matter, and nobody's else.
    owner.execute("ROLLBACK; BEGIN; ALTER SCHEMA eve OWNER TO visrec_eve")
    eves.execute(BACKFILL)
    owner.execute("ROLLBACK")
    assert coverage(eves, "eve.e") == {"embedded": 1}
