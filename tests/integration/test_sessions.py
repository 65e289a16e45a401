"""What an owner's code may leave behind in a session, and lines that are not one's own."""

import psycopg
import pytest
from psycopg import sql

PICTURE = "mug/000-red-plain.jpg"


@pytest.fixture
def mallory(db, pictures):
    """A role with the right to embed, a schema of its own, and a table of who ran its code."""
    db.execute("DROP ROLE IF EXISTS mallory")
    db.execute("CREATE ROLE mallory")
    db.execute("SELECT visrec.grant_access('mallory')")
    db.execute("CREATE SCHEMA mal AUTHORIZATION mallory")
    db.execute("CREATE TABLE mal.loot (who name, how text)")
    db.execute("GRANT ALL ON mal.loot TO PUBLIC")
    db.execute("SET SESSION AUTHORIZATION mallory")
    db.execute("CREATE TABLE mal.pics (id int PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('mal.pics', model => 'pixels')")
    db.execute("INSERT INTO mal.pics VALUES (1, %s)", (PICTURE,))
    db.execute(
        "CREATE FUNCTION mal.evil() RETURNS int LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO mal.loot VALUES (current_user, 'evil'); RETURN 1; END$$"
    )
    db.execute("RESET SESSION AUTHORIZATION")
    yield db
    db.rollback()
    db.execute("RESET SESSION AUTHORIZATION")
    db.execute("DROP OWNED BY mallory CASCADE")
    db.execute("DROP SCHEMA IF EXISTS mal CASCADE")
    db.execute("DROP ROLE mallory")


def as_mallory(db, *statements):
    db.execute("SET SESSION AUTHORIZATION mallory")
    for statement in statements:
        db.execute(statement)
    db.execute("RESET SESSION AUTHORIZATION")


def seen_by(db):
    return {who for (who,) in db.execute("SELECT who FROM mal.loot")}


CALLS = [
    "SELECT * FROM visrec.coverage('mal.pics')",
    "CALL visrec.backfill('mal.pics')",
    "SELECT visrec.retry('mal.pics')",
    "SELECT visrec.recheck('mal.pics')",
    "SELECT visrec.attach('mal.pics')",
    "SELECT * FROM visrec.recall('mal.pics')",
    "SELECT * FROM visrec.tune('mal.pics')",
    "ALTER TABLE mal.pics RENAME image_path TO img",
]

STALE = "UPDATE mal.pics SET content_vector_source[2] = 0"


@pytest.mark.parametrize("call", CALLS)
def test_deferred_triggers_do_not_run_as_an_administrator(mallory, call):
    """PostgreSQL before 18 runs them at the transaction's end, as whoever that is."""
    as_mallory(
        mallory,
        "CREATE FUNCTION mal.d() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM mal.evil(); RETURN NULL; END$$",
        "CREATE CONSTRAINT TRIGGER d AFTER UPDATE ON mal.pics DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION mal.d()",
        STALE,
        "DELETE FROM mal.loot",
    )
    try_it(mallory, call)
    assert seen_by(mallory) <= {"mallory"}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "what",
    [
        "EXECUTE 'DECLARE h CURSOR WITH HOLD FOR SELECT mal.evil()'",
        "EXECUTE 'CREATE TEMP VIEW pg_stat_activity AS SELECT mal.evil() AS pid'",
        "EXECUTE 'DEALLOCATE ALL'; EXECUTE 'PREPARE report AS SELECT mal.evil()'",
        "SET search_path = mal, pg_catalog",
        "SET check_function_bodies = off",
    ],
)
@pytest.mark.one_in(4)
def test_nothing_is_left_in_an_administrators_session(mallory, call, what):
    """The owner's code is a policy, which a mere look at the table runs, and a trigger."""
    before = mallory.execute("SHOW search_path").fetchone()
    as_mallory(
        mallory,
        "CREATE FUNCTION mal.greater(bigint, bigint) RETURNS bool LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM mal.evil(); RETURN $1 OPERATOR(pg_catalog.>) $2; END$$",
        "CREATE OPERATOR mal.> (leftarg = bigint, rightarg = bigint, function = mal.greater)",
        f"CREATE FUNCTION mal.leave() RETURNS bool LANGUAGE plpgsql AS $$BEGIN"
        f" IF session_user <> 'mallory' THEN {what}; END IF;"
        " RETURN true; EXCEPTION WHEN duplicate_cursor OR duplicate_table"
        " OR duplicate_prepared_statement THEN RETURN true; END$$",
        "CREATE FUNCTION mal.t() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM mal.leave(); RETURN NEW; END$$",
        "CREATE TRIGGER t BEFORE UPDATE ON mal.pics FOR EACH ROW EXECUTE FUNCTION mal.t()",
        STALE,
        "ALTER TABLE mal.pics ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE mal.pics FORCE ROW LEVEL SECURITY",
        "CREATE POLICY p ON mal.pics USING (mal.leave())",
        "DELETE FROM mal.loot",
    )
    try_it(mallory, call)
    assert mallory.execute("SHOW search_path").fetchone() == before
    assert mallory.execute("SHOW check_function_bodies").fetchone() == ("on",)
    left = mallory.execute(
        "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%evil%'"
        " UNION ALL SELECT name FROM pg_cursors WHERE is_holdable"
        " UNION ALL SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()"
    )
    assert left.fetchall() == []
    assert seen_by(mallory) <= {"mallory"}


def try_it(db, call):
    """Whether it works or is refused, a transaction is over then."""
    try:
        db.execute(call)
    except psycopg.errors.InsufficientPrivilege as error:
        said = ("left something in this session", "could run code of others in this session")
        assert any(words in str(error) for words in said)  # noqa: PT017


def test_others_lines_are_not_taken_by_on_conflict(mallory):
    """A view's condition is not asked of the line that ON CONFLICT DO UPDATE changes."""
    mallory.execute("CREATE TABLE posts (id int PRIMARY KEY, image_path text)")
    mallory.execute("SELECT visrec.attach('posts', model => 'pixels')")
    mallory.execute("INSERT INTO posts VALUES (7, 'private/customer.jpg')")
    mine, theirs = (
        mallory.execute("SELECT id FROM visrec.attachment WHERE name = %s", (name,)).fetchone()[0]
        for name in ("pics", "posts")
    )
    columns = [
        row[0]
        for row in mallory.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'visrec.attachment'::regclass"
            " AND attnum > 1 ORDER BY attnum"
        )
    ]
    mallory.execute("SET SESSION AUTHORIZATION mallory")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        mallory.execute(
            sql.SQL(
                "INSERT INTO visrec.own_attachment SELECT {}, {} FROM visrec.own_attachment"
                " ON CONFLICT (id) DO UPDATE SET relation = excluded.relation, name = excluded.name"
            ).format(
                theirs,
                sql.SQL(", ").join(
                    sql.Literal("stolen") if name == "name" else sql.Identifier(name)
                    for name in columns
                ),
            )
        )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        mallory.execute(
            "INSERT INTO visrec.own_failed_row (attachment, row_id, code, message)"
            " VALUES (%s, '7', 'x', 'y')"
            " ON CONFLICT (attachment, row_id) DO UPDATE SET attachment = %s",
            (theirs, mine),
        )
    mallory.execute("RESET SESSION AUTHORIZATION")
    failures = mallory.execute("SELECT relation::text, row_id FROM visrec.failure").fetchall()
    assert failures == [("posts", "7")]


@pytest.mark.parametrize("path", ["pg_temp, public", "public", "pg_temp", ""])
def test_an_inserters_temporary_table_never_stands_for_the_owners(mallory, path):
    mallory.execute("DROP ROLE IF EXISTS bob")
    mallory.execute("CREATE ROLE bob")
    mallory.execute(
        sql.SQL("GRANT TEMPORARY ON DATABASE {} TO bob").format(sql.Identifier(mallory.info.dbname))
    )
    as_mallory(
        mallory,
        "CREATE TABLE mal.audit (id int)",
        "CREATE FUNCTION mal.note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END$$",
        "CREATE TRIGGER note AFTER UPDATE ON mal.pics FOR EACH ROW EXECUTE FUNCTION mal.note()",
        "GRANT USAGE ON SCHEMA mal TO bob",
        "GRANT INSERT ON mal.pics TO bob",
    )
    mallory.execute("SET SESSION AUTHORIZATION bob")
    mallory.execute("CREATE TEMP TABLE audit (id int)")
    mallory.execute("CREATE TEMP TABLE got (who name)")
    mallory.execute("GRANT ALL ON audit, got TO PUBLIC")
    mallory.execute(
        "CREATE FUNCTION pg_temp.trap() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO pg_temp.got VALUES (current_user); RETURN NEW; END$$"
    )
    mallory.execute(
        "CREATE TRIGGER t BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION pg_temp.trap()"
    )
    mallory.execute("SELECT set_config('search_path', %s, false)", (path,))
    mallory.execute("INSERT INTO mal.pics VALUES (2, %s)", (PICTURE,))
    mallory.execute("RESET search_path")
    mallory.execute("RESET SESSION AUTHORIZATION")
    assert mallory.execute("SELECT * FROM pg_temp.got").fetchall() == []
    assert mallory.execute("SELECT count(*) FROM mal.pics").fetchone() == (2,)
    mallory.execute("DROP OWNED BY bob CASCADE")
    mallory.execute("DROP ROLE bob")


def test_an_event_trigger_grants_nothing(mallory):
    mallory.execute("SELECT visrec.revoke_access('mallory')")
    mallory.execute("ALTER TABLE mal.pics RENAME image_path TO img")
    can = "SELECT has_function_privilege('mallory', 'visrec.embed_image(text, text)', 'EXECUTE')"
    assert mallory.execute(can).fetchone() == (False,)


def test_a_strangers_function_is_not_handed_over(mallory):
    """Digests of shells are the owner's to write; whose function it is, is not."""
    mallory.execute("DROP ROLE IF EXISTS bob")
    mallory.execute("CREATE ROLE bob")
    mallory.execute("GRANT ALL ON SCHEMA mal TO bob")
    mallory.execute("SET SESSION AUTHORIZATION bob")
    mallory.execute("CREATE FUNCTION mal.failures_users() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    mallory.execute("RESET SESSION AUTHORIZATION")
    as_mallory(
        mallory,
        "UPDATE visrec.own_attachment SET name = 'users', shells = ARRAY(SELECT"
        " encode(sha256(convert_to(proname || prosrc, 'UTF8')), 'hex') FROM pg_proc"
        " WHERE proname = 'failures_users') WHERE relation = 'mal.pics'::regclass",
    )
    with pytest.raises(psycopg.errors.DuplicateFunction):
        mallory.execute("SELECT visrec.attach('mal.pics', name => 'users')")
    owner = "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'failures_users'"
    assert mallory.execute(owner).fetchone() == ("bob",)
    mallory.execute("DROP OWNED BY bob CASCADE")
    mallory.execute("DROP ROLE bob")
