"""Nobody gains a right: what a table's owner plants never runs as anybody but the owner.

The attacker's trap, ``trap.look``, notes as whom it runs, and whether it can become a superuser. It
counts with sequences, too, which keep their numbers when a statement fails.
"""

import contextlib
import threading
import time

import psycopg
import pytest
from psycopg import sql

from .conftest import coverage, notices, waits

MALLORY, ANON = "visrec_mallory", "visrec_anon"

TRAP = """
CREATE SCHEMA trap;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
CREATE TABLE trap.seen (place text, who text, session text, became text[]);
GRANT SELECT, INSERT ON trap.seen TO PUBLIC;
CREATE SEQUENCE trap.ran;
CREATE SEQUENCE trap.escalated;
GRANT ALL ON SEQUENCE trap.ran, trap.escalated TO PUBLIC;
CREATE FUNCTION trap.is_super() RETURNS boolean LANGUAGE sql SET search_path = pg_catalog AS
    'SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user';
CREATE FUNCTION trap.look(place text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    who text := current_user;
    became text[] := CASE WHEN trap.is_super() THEN pg_catalog.array_append(NULL, 'at once') END;
    way text;
BEGIN
    FOREACH way IN ARRAY '{RESET ROLE,SET ROLE postgres,SET SESSION AUTHORIZATION DEFAULT,'
        'SET SESSION AUTHORIZATION postgres}'::text[] LOOP
        BEGIN
            EXECUTE way;
            IF trap.is_super() THEN
                became := pg_catalog.array_append(became, way);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END LOOP;
    PERFORM pg_catalog.nextval('trap.ran');
    IF became IS NOT NULL THEN
        PERFORM pg_catalog.nextval('trap.escalated');
    END IF;
    INSERT INTO trap.seen VALUES (place, who, session_user, became);
    RETURN true;
END
$$;
CREATE FUNCTION trap.lie(place text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN PERFORM trap.look(place); RETURN 'x'; END $$;
CREATE FUNCTION trap.fire() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM trap.look(tg_name); RETURN NEW; END $$;
CREATE DOMAIN trap.key AS bigint CHECK (trap.look('domain'));
CREATE TYPE trap.kind AS ENUM ('a', 'b');
CREATE FUNCTION trap.kind_text(trap.kind) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN PERFORM trap.look('cast to text'); RETURN 'a'; END $$;
CREATE FUNCTION trap.text_kind(text) RETURNS trap.kind LANGUAGE plpgsql AS
    $$ BEGIN
        PERFORM trap.look('cast from text');
        RETURN (SELECT e FROM pg_catalog.unnest(pg_catalog.enum_range(NULL::trap.kind)) AS e
                WHERE pg_catalog.format('%s', e) = $1);
    END $$;
CREATE FUNCTION trap.kind_float(trap.kind) RETURNS float8 LANGUAGE plpgsql AS
    $$ BEGIN PERFORM trap.look('cast to float8'); RETURN 1; END $$;
CREATE FUNCTION trap.kind_key(trap.kind) RETURNS bigint LANGUAGE plpgsql AS
    $$ BEGIN PERFORM trap.look('cast to the key'); RETURN 1; END $$;
CREATE CAST (trap.kind AS text) WITH FUNCTION trap.kind_text AS ASSIGNMENT;
CREATE CAST (text AS trap.kind) WITH FUNCTION trap.text_kind AS ASSIGNMENT;
CREATE CAST (trap.kind AS float8) WITH FUNCTION trap.kind_float AS ASSIGNMENT;
CREATE CAST (trap.kind AS bigint) WITH FUNCTION trap.kind_key AS ASSIGNMENT;
"""

# Every place of a table where its owner can have code run.
POSTS = """
CREATE TABLE trap.posts (id {key} PRIMARY KEY, image_path text, kind trap.kind DEFAULT 'a',
    made text GENERATED ALWAYS AS (trap.lie('generated column')) STORED,
    CHECK (trap.look('check')));
CREATE INDEX ON trap.posts (trap.lie('index'));
ALTER TABLE trap.posts ENABLE ROW LEVEL SECURITY;
CREATE POLICY policy ON trap.posts USING (trap.look('policy'));
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE ON trap.posts
    FOR EACH ROW EXECUTE FUNCTION trap.fire();
CREATE TRIGGER after_row AFTER INSERT OR UPDATE ON trap.posts
    FOR EACH ROW EXECUTE FUNCTION trap.fire();
CREATE TRIGGER after_statement AFTER INSERT OR UPDATE ON trap.posts
    FOR EACH STATEMENT EXECUTE FUNCTION trap.fire();
CREATE TABLE trap.events (user_id trap.kind, post_id trap.kind, weight trap.key, at trap.kind);
"""

ADMINISTRATION = [
    "SELECT * FROM visrec.coverage('trap.posts')",
    "SELECT c.* FROM visrec.attached AS a, visrec.coverage(a.relation) AS c",
    "SELECT * FROM visrec.failure",
    "SELECT * FROM visrec.failures('trap.posts')",
    "CALL visrec.backfill('trap.posts')",
    "SELECT visrec.retry('trap.posts')",
    "SELECT visrec.recheck('trap.posts')",
    "UPDATE visrec.attachment SET fingerprint = fingerprint",
    "CALL visrec.backfill('trap.posts', batch_size => 1)",
    "CALL visrec.reindex('trap.posts', 'ivfflat')",
    "SELECT * FROM visrec.tune('trap.posts')",
    "SELECT visrec.reduce('trap.posts', 4)",
    "SELECT visrec.recall('trap.posts')",
    "SELECT * FROM visrec.duplicates('trap.posts', max_distance => 2)",
    "SELECT * FROM visrec.evaluate('trap.posts', 'kind')",
    "SELECT * FROM visrec.evaluate_taste('trap.posts')",
    "SELECT * FROM visrec.evaluate_taste('trap.posts', 'trap.events', 'user_id', 'post_id', 'at')",
    "SELECT visrec.taste('trap.posts', '{1,2}'::bigint[])",
    "SELECT visrec.attach('trap.posts', model => 'pixels')",
    "SELECT visrec.attach('trap.posts', show_columns => '{kind,made}')",
    "CALL visrec.backfill('trap.posts')",
    "ALTER TABLE trap.posts RENAME COLUMN image_path TO image",
    "ALTER TABLE trap.posts ALTER COLUMN image TYPE varchar(500)",
    "SELECT visrec.detach('trap.posts', drop_vectors => true)",
    "DROP TABLE trap.posts",
]


@pytest.fixture
def roles(db):
    """Two ordinary roles; the first may attach its tables."""
    for role in (MALLORY, ANON):
        db.execute(f"DROP ROLE IF EXISTS {role}")
        db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' NOSUPERUSER")
    db.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
            sql.Identifier(db.info.dbname), sql.Identifier(MALLORY)
        )
    )
    db.execute(f"SELECT visrec.grant_access('{MALLORY}')")
    opened = []

    def session(role=MALLORY):
        opened.append(psycopg.connect(db.info.dsn, user=role, password="x", autocommit=True))
        return opened[-1]

    yield session
    for connection in opened:
        connection.close()
    db.execute("RESET ROLE")
    db.execute("RESET SESSION AUTHORIZATION")
    for role in (MALLORY, ANON):
        db.execute(f"DROP OWNED BY {role} CASCADE")
        db.execute(f"DROP ROLE {role}")


@pytest.fixture
def mallory(roles, paths):
    """The owner of an attached table full of traps, with rows that are to be embedded."""
    return plant(roles(), paths)


def plant(session, paths, key="bigint"):
    session.execute(TRAP)
    session.execute(POSTS.format(key=key))
    session.execute("SELECT visrec.attach('trap.posts', model => 'pixels')")
    session.execute(
        "INSERT INTO trap.posts (id, image_path) SELECT n, p"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u (p, n)",
        ([*paths[:8], "nowhere.jpg"],),
    )
    session.execute("UPDATE trap.posts SET content_vector = NULL WHERE id > 2")
    session.execute("INSERT INTO trap.events VALUES ('a', 'a', '1', 'a'), ('a', 'b', '2', 'b')")
    session.execute(
        "SELECT visrec.attach_events('trap.posts', 'trap.events', item_column => 'post_id')"
    )
    session.execute("TRUNCATE trap.seen")
    return session


def administrate(db, statements=ADMINISTRATION):
    """Runs what an administrator runs; how many statements succeeded."""
    done = 0
    for statement in statements:
        with contextlib.suppress(psycopg.Error):
            db.execute(statement)
            done += 1
    return done


def escalations(db):
    """Where the trap ran as a superuser, or became one."""
    if db.execute("SELECT is_called FROM trap.escalated").fetchone()[0]:
        return db.execute("SELECT * FROM trap.seen WHERE became IS NOT NULL").fetchall() or "undone"
    return []


def test_the_trap_works(db, mallory):
    """A superuser that writes the table itself runs the owner's code: what visrec must not do."""
    db.execute("UPDATE trap.posts SET kind = 'b' WHERE id = 1")
    places = {place for place, *_ in escalations(db)}
    assert {"before_row", "after_row", "after_statement", "check", "generated column"} <= places
    db.execute("SELECT 'a'::text::trap.kind::text, 1::trap.key")
    places = {place for place, *_ in escalations(db)}
    assert {"cast to text", "cast from text", "domain"} <= places


@pytest.mark.parametrize("key", ["bigint", "trap.key", "trap.kind"])
def test_an_administrator_runs_no_code_of_the_owner(db, roles, paths, key):
    session = plant(roles(), paths, "bigint" if key == "trap.kind" else key)
    if key == "trap.kind":
        session.execute("CREATE TABLE trap.kinds (id trap.kind PRIMARY KEY, image_path text)")
        session.execute("SELECT visrec.attach('trap.kinds', model => 'pixels')")
        session.execute("INSERT INTO trap.kinds VALUES ('a', %s), ('b', %s)", (paths[0], paths[1]))
        statements = [s.replace("trap.posts", "trap.kinds") for s in ADMINISTRATION]
    else:
        statements = ADMINISTRATION
    session.execute("TRUNCATE trap.seen")
    assert administrate(db, statements) > 10  # those that write are refused
    assert escalations(db) == []
    seen = db.execute("SELECT DISTINCT place FROM trap.seen WHERE place ~ '_row|_statement'")
    assert seen.fetchall() == []


TAMPERING = {
    "invoker": "ALTER FUNCTION {table} SECURITY INVOKER",
    "invoker with a role": "ALTER FUNCTION {table} SECURITY INVOKER SET role = visrec_mallory",
    "definer with a role": "ALTER FUNCTION {table} SET role = visrec_mallory",
    "a superuser's role": "ALTER FUNCTION {table} SECURITY INVOKER SET role = postgres",
    "a superuser's session": "ALTER FUNCTION {table} SET session_authorization = postgres",
    "no role": "ALTER FUNCTION {table} SECURITY INVOKER SET role = none",
    "authorization": "ALTER FUNCTION {table} SECURITY INVOKER"
    " SET session_authorization = visrec_mallory",
    "path": "ALTER FUNCTION {table} SET search_path = trap, pg_catalog",
    "invoker and path": "ALTER FUNCTION {table} SECURITY INVOKER SET search_path = trap",
    "strict": "ALTER FUNCTION {table} STRICT STABLE PARALLEL SAFE",
    "immutable": "ALTER FUNCTION {table} IMMUTABLE",
    "granted": "GRANT EXECUTE ON FUNCTION {table} TO PUBLIC",
    "trigger function invoker": "ALTER FUNCTION {trigger} SECURITY INVOKER",
    "trigger function with a role": "ALTER FUNCTION {trigger} SECURITY INVOKER SET role = none",
    "dropped": "DROP FUNCTION {table}",
    "moved": "ALTER FUNCTION {table} SET SCHEMA trap",
    "both dropped": "DROP FUNCTION {table}; DROP FUNCTION {trigger} CASCADE",
}


@pytest.mark.parametrize("how", TAMPERING)
@pytest.mark.one_in(3)
def test_tampering_with_the_owners_function(db, mallory, how):
    [(number,)] = mallory.execute("SELECT id FROM visrec.attachment").fetchall()
    names = {
        "table": f"visrec._table_{number}(text, jsonb)",
        "trigger": f"visrec._trigger_{number}()",
    }
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        mallory.execute(TAMPERING[how].format(**names))
    administrate(db)
    assert escalations(db) == []


@pytest.mark.parametrize("how", ["invoker", "invoker with a role", "dropped", "moved"])
def test_attach_mends_what_the_owner_did(db, mallory, how):
    """As superuser, without running anything of the owner's; then all works again."""
    [(number,)] = mallory.execute("SELECT id FROM visrec.attachment").fetchall()
    function = f"visrec._table_{number}(text, jsonb)"
    mallory.execute(TAMPERING[how].format(table=function))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        db.execute("CALL visrec.backfill('trap.posts')")
    assert "visrec.attach('trap.posts')" in caught.value.diag.message_hint
    db.execute("SELECT visrec.attach('trap.posts')")
    mallory.execute("CALL visrec.backfill('trap.posts')")
    assert coverage(db, "trap.posts") == {"embedded": 8, "failed": 1}
    assert escalations(db) == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE OR REPLACE FUNCTION visrec._table_1(task text, arguments jsonb) RETURNS jsonb"
        " LANGUAGE sql AS 'SELECT NULL::jsonb'",
        "CREATE FUNCTION visrec._table_2(task text, arguments jsonb) RETURNS jsonb"
        " LANGUAGE sql AS 'SELECT NULL::jsonb'",
        "ALTER FUNCTION visrec._table_1(text, jsonb) RENAME TO _table_2",
        "ALTER FUNCTION visrec._table_1(text, jsonb) OWNER TO pg_database_owner",
        "ALTER FUNCTION trap.look(text) SET SCHEMA visrec",
    ],
)
def test_the_owner_may_not(mallory, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        mallory.execute(statement.replace("_1(", f"_{number_of(mallory)}("))
    assert mallory.execute(
        "SELECT prosecdef FROM pg_proc WHERE proname ~ '^_table_'"
    ).fetchall() == [(True,)]


def number_of(connection, table="trap.posts"):
    return connection.execute(
        "SELECT id FROM visrec.attachment WHERE relation = %s::regclass", (table,)
    ).fetchone()[0]


def flip(roles, statements, stop):
    """Runs the statements again and again until told to stop."""
    session = roles()

    def run():
        while not stop.is_set():
            for statement in statements:
                with contextlib.suppress(psycopg.Error):
                    session.execute(statement)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("how", ["invoker", "invoker with a role", "no role"])
def test_flipping_while_an_administrator_calls(db, roles, mallory, how):
    function = f"visrec._table_{number_of(mallory)}(text, jsonb)"
    stop = threading.Event()
    thread = flip(
        roles,
        [
            TAMPERING[how].format(table=function),
            f"ALTER FUNCTION {function} SECURITY DEFINER RESET ALL",
        ],
        stop,
    )
    answers = refusals = 0
    try:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for statement in ADMINISTRATION[:9]:
                try:
                    db.execute(statement)
                    answers += 1
                except psycopg.Error:
                    refusals += 1
    finally:
        stop.set()
        thread.join()
    assert escalations(db) == []
    assert min(answers, refusals) > 0  # the flips were met


def test_flipping_while_an_administrators_call_waits(db, roles, mallory, connect):
    """The CALL waits inside the owner's function; then that becomes its caller's."""
    function = f"visrec._table_{number_of(mallory)}(text, jsonb)"
    admin = connect(autocommit=True)
    mallory.execute("BEGIN")
    mallory.execute("LOCK TABLE trap.posts")
    caught = []

    def backfill():
        try:
            admin.execute("CALL visrec.backfill('trap.posts', batch_size => 1)")
        except psycopg.Error as error:
            caught.append(error)

    thread = threading.Thread(target=backfill)
    thread.start()
    while not waits(db, admin):
        time.sleep(0.01)
    roles().execute(f"ALTER FUNCTION {function} SECURITY INVOKER")
    mallory.execute("COMMIT")
    thread.join()
    assert len(caught) == 1
    assert escalations(db) == []


@pytest.mark.parametrize("way", ["SET ROLE", "SET SESSION AUTHORIZATION"])
def test_a_superuser_that_became_the_owner_is_not_brought_back(db, mallory, way):
    """Under SET ROLE a trigger can RESET ROLE; not where visrec writes the row."""
    for statement in ADMINISTRATION:
        if statement.startswith(("SELECT", "CALL")):
            db.execute(f"{way} {MALLORY}")
            administrate(db, [statement])
            db.execute("RESET ROLE")
            db.execute("RESET SESSION AUTHORIZATION")
    writes = db.execute(
        "SELECT became FROM trap.seen WHERE place IN ('after_row', 'after_statement', 'before_row')"
    ).fetchall()
    assert writes
    if way == "SET ROLE":
        assert {became for (became,) in writes} == {None}


READING = [s for s in ADMINISTRATION if "FROM visrec." in s or s.startswith("SELECT visrec.")][:-1]

SWAPS = {
    "type": "ALTER TABLE trap.posts ALTER image_path TYPE trap.kind USING 'a'",
    "view": "ALTER TABLE trap.posts RENAME TO gone; CREATE VIEW trap.posts AS"
    " SELECT id, image_path, kind, made, content_vector, content_vector_source FROM trap.gone"
    " WHERE trap.look('view')",
    "view and schema": "ALTER SCHEMA trap RENAME TO moved; CREATE SCHEMA trap;"
    " GRANT USAGE ON SCHEMA trap TO PUBLIC; CREATE VIEW trap.posts AS SELECT id, image_path, kind,"
    " made, content_vector, content_vector_source FROM moved.posts WHERE moved.look('view')",
    "events": "ALTER TABLE trap.events RENAME TO old; CREATE VIEW trap.events AS"
    " SELECT * FROM trap.old WHERE trap.look('view')",
}


@pytest.mark.parametrize("how", SWAPS)
@pytest.mark.parametrize(
    "statement", [s for s in READING if "attached" not in s and "failure" not in s]
)
@pytest.mark.one_in(5)
def test_what_is_swapped_while_an_administrator_waits(db, mallory, connect, statement, how):
    """What was checked is not what is there when the lock comes: a view of that name, a type."""
    mallory.execute("BEGIN")
    for part in SWAPS[how].split(";"):
        mallory.execute(part)
    admin = connect(autocommit=True)
    ended = threading.Event()

    def run():
        with contextlib.suppress(psycopg.Error):
            admin.execute("SET statement_timeout = '20s'")
            admin.execute(statement)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not (ended.is_set() or waits(db, admin)):
        time.sleep(0.01)
    mallory.execute("COMMIT")
    thread.join()
    schema = "moved" if how == "view and schema" else "trap"
    assert db.execute(f"SELECT is_called FROM {schema}.escalated").fetchone() == (False,)


@pytest.mark.parametrize("how", SWAPS)
def test_what_was_swapped_before(db, mallory, how):
    for part in SWAPS[how].split(";"):
        mallory.execute(part)
    schema = "moved" if how == "view and schema" else "trap"
    table = {"view": "trap.gone", "view and schema": "moved.posts"}.get(how, "trap.posts")
    administrate(db, [s.replace("trap.posts", table) for s in ADMINISTRATION])
    assert db.execute(f"SELECT is_called FROM {schema}.escalated").fetchone() == (False,)


# 3. EXECUTE for others -------------------------------------------------------------------------


def grantees(db):
    """Everybody but the owner who may call a function of an attachment."""
    return db.execute(
        "SELECT p.proname, a.grantee::regrole::text FROM pg_proc AS p, aclexplode(p.proacl) AS a"
        " WHERE p.pronamespace = 'visrec'::regnamespace AND p.proname ~ '^_(table|trigger)_[0-9]+$'"
        " AND a.grantee <> p.proowner"
    ).fetchall()


@pytest.mark.parametrize("whose", [MALLORY, "postgres"])
@pytest.mark.parametrize("where", ["", "IN SCHEMA visrec"])
def test_default_privileges_before_attach(db, roles, paths, whose, where):
    for kind in ("FUNCTIONS", "TABLES", "SEQUENCES", "TYPES"):
        db.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {whose} {where} GRANT ALL ON {kind} TO {ANON}"
        )
    if where == "" and whose == MALLORY:  # anon could have made the triggers that are there
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may be others'"):
            plant(roles(), paths)
        db.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {whose} {where} REVOKE ALL ON TABLES FROM {ANON}"
        )
        db.execute("DROP SCHEMA trap CASCADE")
    session = plant(roles(), paths)
    assert grantees(db) == []
    db.execute("SELECT visrec.attach('trap.posts')")
    session.execute("SELECT visrec.reduce('trap.posts', 1)")
    assert grantees(db) == []
    anon = roles(ANON)
    number = number_of(db)
    anon.execute("CREATE TEMP TABLE bait (id bigint, image_path text, content_vector text)")
    for statement in (
        f"SELECT visrec._table_{number}('batch', '{{}}')",
        f"CREATE TRIGGER t AFTER INSERT ON bait EXECUTE FUNCTION visrec._trigger_{number}('1')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            anon.execute(statement)
    db.execute(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE postgres {where} REVOKE ALL ON TABLES FROM {ANON}"
    )


def privileges(db, role):
    """All that a role may do with what is in schema visrec."""
    return db.execute(
        "SELECT p.oid::regprocedure::text, 'x' FROM pg_proc AS p"
        " WHERE p.pronamespace = 'visrec'::regnamespace AND has_function_privilege(%(r)s,"
        " p.oid, 'EXECUTE')"
        " UNION SELECT c.oid::regclass::text, w FROM pg_class AS c,"
        " unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS w"
        " WHERE c.relnamespace = 'visrec'::regnamespace AND c.relkind IN ('r', 'v')"
        " AND has_table_privilege(%(r)s, c.oid, w)"
        " UNION SELECT c.oid::regclass::text, w FROM pg_class AS c,"
        " unnest('{SELECT,UPDATE,USAGE}'::text[]) AS w"
        " WHERE c.relnamespace = 'visrec'::regnamespace AND c.relkind = 'S'"
        " AND has_sequence_privilege(%(r)s, c.oid, w)"
        " UNION SELECT 'schema', w FROM unnest('{CREATE,USAGE}'::text[]) AS w"
        " WHERE has_schema_privilege(%(r)s, 'visrec', w) ORDER BY 1, 2",
        {"r": role},
    ).fetchall()


def test_default_privileges_before_create_extension(db, roles):
    fresh = privileges(db, ANON)
    db.execute("DROP EXTENSION visrec CASCADE")
    for kind in ("FUNCTIONS", "TABLES", "SEQUENCES", "TYPES"):
        db.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO {ANON}")
    db.execute("CREATE EXTENSION visrec")
    assert privileges(db, ANON) == fresh


def test_default_privileges_of_schemas_before_create_extension(db, roles):
    """Who can create in schema visrec could replace what is in it: refused, or taken back."""
    db.execute("DROP EXTENSION visrec CASCADE")
    db.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {ANON}")
    with contextlib.suppress(psycopg.errors.ObjectNotInPrerequisiteState):
        db.execute("CREATE EXTENSION visrec")
    assert db.execute(
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'visrec'"
        f" AND has_schema_privilege('{ANON}', oid, 'CREATE')"
    ).fetchone() == (0,)


def test_a_grantee_of_the_owners_function_gets_nowhere(db, roles, mallory, paths):
    """What an owner gives away of its own is its own; a forged table or argument still is none."""
    number = number_of(mallory)
    mallory.execute(f"GRANT EXECUTE ON FUNCTION visrec._trigger_{number}() TO {ANON}")
    mallory.execute(f"GRANT EXECUTE ON FUNCTION visrec._table_{number}(text, jsonb) TO {ANON}")
    anon = roles(ANON)
    mallory.execute("INSERT INTO trap.posts (id, image_path) VALUES (77, 'nowhere.jpg')")
    anon.execute(
        "CREATE FUNCTION pg_temp.look(public.vector) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE WARNING 'looked as %', current_user; RETURN true; END $$;"
        "CREATE DOMAIN pg_temp.watched AS public.vector CHECK (pg_temp.look(VALUE));"
        "CREATE TEMP TABLE bait (id bigint, image_path text, content_vector pg_temp.watched)"
    )
    for event in (
        "AFTER INSERT ON bait REFERENCING NEW TABLE AS new_rows",
        "BEFORE UPDATE ON bait FOR EACH ROW WHEN (OLD.content_vector IS NOT NULL)",
        "AFTER DELETE ON bait FOR EACH ROW",
        "AFTER TRUNCATE ON bait",
    ):
        anon.execute(
            f'CREATE TRIGGER "{event[:9]}" {event}'
            f" EXECUTE FUNCTION visrec._trigger_{number}('trap.posts', '1')"
        )
    anon.execute("INSERT INTO bait VALUES (77, 'x', '[1]')")
    heard = notices(anon)
    anon.execute("UPDATE bait SET image_path = 'y'")
    assert anon.execute("SELECT * FROM bait").fetchall() == [(77, "y", "[1]")]
    anon.execute("DELETE FROM bait")
    anon.execute("TRUNCATE bait")
    assert heard == []
    failed = mallory.execute("SELECT row_id FROM visrec.failure ORDER BY 1")
    assert failed.fetchall() == [("77",), ("9",)]
    db.execute("SELECT visrec.attach('trap.posts')")
    assert grantees(db) == []


@pytest.mark.parametrize("place", ["public", "trap"])
def test_a_function_made_beforehand_is_not_adopted(db, roles, place):
    anon = roles(ANON)
    session = roles()
    session.execute("CREATE SCHEMA trap")
    db.execute(f"GRANT USAGE, CREATE ON SCHEMA {place} TO {ANON}, {MALLORY}")
    anon.execute(
        f"CREATE FUNCTION {place}.similar_posts(id bigint, k integer = 10, filter jsonb = NULL,"
        " max_distance float8 = NULL, strict boolean = false) RETURNS SETOF record"
        " LANGUAGE sql AS 'SELECT 1'"
    )
    anon.execute(
        f"ALTER FUNCTION {place}.similar_posts(bigint, integer, jsonb, float8, boolean)"
        " DEPENDS ON EXTENSION visrec"
    )
    session.execute(f"CREATE TABLE {place}.posts (id bigint PRIMARY KEY, image_path text)")
    for connection in (session, db):
        with pytest.raises(psycopg.errors.DuplicateFunction):
            connection.execute(f"SELECT visrec.attach('{place}.posts', model => 'pixels')")
    assert db.execute(
        "SELECT proowner::regrole::text, prosrc FROM pg_proc WHERE proname = 'similar_posts'"
    ).fetchall() == [(ANON, "SELECT 1")]


# 4. Forged attachments -------------------------------------------------------------------------


def test_a_trigger_by_our_name_is_no_attachment(db, roles):
    session = roles()
    session.execute(TRAP)
    session.execute("CREATE TABLE trap.posts (id bigint PRIMARY KEY, image_path trap.kind)")
    for name in ("visrec_insert", "visrec_1_insert", "~visrec_1_image", "visrec_1_update"):
        session.execute(
            f'CREATE TRIGGER "{name}" AFTER INSERT ON trap.posts'
            " EXECUTE FUNCTION trap.fire('1', '{\"image\": \"image_path\"}')"
        )
        session.execute(f'ALTER TRIGGER "{name}" ON trap.posts DEPENDS ON EXTENSION visrec')
    session.execute("INSERT INTO trap.posts VALUES (1, 'a')")
    assert db.execute("SELECT * FROM visrec.attached").fetchall() == []
    assert administrate(db, ADMINISTRATION[4:20]) == 1  # which writes no row of visrec.attachment
    assert escalations(db) == []
    db.execute("DROP TABLE trap.posts")


def test_an_image_column_that_became_an_enum(db, mallory):
    """By ALTER TYPE, by another column of that name, and with the registry's line forged."""
    changes = [
        "ALTER TABLE trap.posts ALTER image_path TYPE trap.kind USING 'a'::trap.kind",
        "ALTER TABLE trap.posts DROP image_path, ADD image_path trap.kind DEFAULT 'a'",
        "UPDATE visrec.own_attachment SET types[2] = 'trap.kind'",
        "UPDATE visrec.own_attachment SET columns[2] = 'kind', types[2] = 'trap.kind'",
        "UPDATE visrec.own_attachment SET types = NULL",
    ]
    for change in changes:
        with contextlib.suppress(psycopg.Error):
            mallory.execute(change)
        db.execute(
            "SELECT a.*, c.* FROM visrec.attached a LEFT JOIN visrec.coverage(a.relation) c ON true"
        )
        administrate(db, ADMINISTRATION[:8])
        assert escalations(db) == []
    assert db.execute("SELECT problem IS NOT NULL FROM visrec.attached").fetchone() == (True,)


FORGERIES = [
    "INSERT INTO visrec.own_attachment SELECT (a).* FROM (SELECT jsonb_populate_record(o,"
    ' \'{{"id": 77, "name": "mine", "relation": "{victim}"}}\') AS a'
    " FROM visrec.own_attachment AS o) AS x",
    "UPDATE visrec.own_attachment SET relation = '{victim}'",
    "UPDATE visrec.own_attachment SET relation = 'pg_catalog.pg_authid'",
    "UPDATE visrec.own_attachment SET id = {number}, name = 'mine'",
    "UPDATE visrec.attachment SET model = 'pixels'",
    "DELETE FROM visrec.attachment",
    "INSERT INTO visrec.own_failed_row (attachment, row_id, code, message, attempts, first_try,"
    " last_try) SELECT {number}, row_id, code, message, 1, now(), now() FROM visrec.own_failed_row",
    "INSERT INTO visrec.own_failed_row (attachment, row_id, code, message)"
    " VALUES ({number}, '1', 'x', 'x')",
    "INSERT INTO visrec.failed_row (attachment, row_id, code, message)"
    " VALUES ({number}, '1', 'x', 'x')",
    "UPDATE visrec.own_failed_row SET attachment = {number}",
]


@pytest.mark.parametrize("statement", FORGERIES)
def test_other_peoples_lines_are_not_written(posts, mallory, paths, statement):
    number = number_of(posts, "public.posts")
    before = posts.execute("SELECT a FROM visrec.attachment AS a ORDER BY id").fetchall()
    mallory.execute("INSERT INTO trap.posts VALUES (77, 'nowhere.jpg')")
    with pytest.raises(
        (psycopg.errors.InsufficientPrivilege, psycopg.errors.WithCheckOptionViolation)
    ):
        mallory.execute(statement.format(victim="public.posts", number=number))
    assert posts.execute("SELECT a FROM visrec.attachment AS a ORDER BY id").fetchall() == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE visrec.own_attachment SET gone = true",
        "UPDATE visrec.own_failed_row SET gone = true",
        "UPDATE visrec.own_attachment SET on_error = 'raise'",
        "UPDATE visrec.own_failed_row SET message = 'x'",
    ],
)
def test_what_one_owner_writes_is_its_own(posts, mallory, change):
    posts.execute("INSERT INTO posts VALUES (1, 'nowhere.jpg')")
    ours = (
        "SELECT a, (SELECT array_agg(f) FROM visrec.failed_row AS f WHERE f.attachment = a.id)"
        " FROM visrec.attachment AS a WHERE a.relation = 'public.posts'::regclass"
    )
    before = posts.execute(ours).fetchall()
    mallory.execute(change)
    assert posts.execute(ours).fetchall() == before


FORGED_VALUES = {
    "numbers": "'{1,1,1,1}'",
    "types": "'{trap.kind,trap.kind,trap.kind,trap.kind}'",
    "columns": "'{id,kind,content_vector,content_vector_source}'",
    "name": "'x''; SELECT trap.look(''name''); --'",
    "model": "'nix'",
    "fingerprint": "'x'",
    "index_method": "'hnsw (trap.look(''x''))'",
    "index_metric": "'trap.look(''x'')'",
    "components": "ARRAY['[1,2]', NULL]::vector[], index_method = 'hnsw_reduced', reduction = 7",
    "reduction": "-1, index_method = 'hnsw_reduced'",
    "events": "'pg_catalog.pg_authid', event_columns = '{oid,oid,oid,oid}'",
    "event_columns": "'{trap.look,x,y}', events = 'trap.events'",
    "shells": "ARRAY(SELECT visrec._shell_digest(proname, prosrc) FROM pg_proc)",
    "weights": "0",
    "operators": '\'{"OPERATOR(trap.=)","OR trap.look(1) OR"}\'',
    "relation": "'trap.events'",
}


@pytest.mark.parametrize("column", FORGED_VALUES)
@pytest.mark.one_in(3)
def test_a_forged_line_gains_nothing(posts, mallory, paths, column):
    """Of the owner's own table: nothing in it is code, and nobody else's work stops."""
    posts.execute("SET search_path = public")
    statement = f"UPDATE visrec.own_attachment SET {column} = {FORGED_VALUES[column]}"
    with contextlib.suppress(psycopg.Error):
        mallory.execute(statement)
    administrate(posts)
    assert escalations(posts) == []
    posts.execute("INSERT INTO public.posts VALUES (1, %s)", (paths[0],))
    assert coverage(posts, "public.posts") == {"embedded": 1}
    assert len(posts.execute("SELECT * FROM visrec.attached").fetchall()) >= 1
    posts.execute("DROP TABLE public.posts")


def test_another_role_does_not_take_the_next_ids(posts, mallory):
    """An id that is forged, ahead of the sequence, would be in the way of everybody's attach."""
    [(latest,)] = posts.execute("SELECT last_value FROM visrec.attachment_id").fetchall()
    mallory.execute("CREATE TABLE trap.more (id bigint PRIMARY KEY, image_path text)")
    mallory.execute("SELECT visrec.attach('trap.more', model => 'pixels')")
    for ahead in range(latest + 2, latest + 5):
        with contextlib.suppress(psycopg.Error):
            mallory.execute(
                "INSERT INTO visrec.own_attachment SELECT (a).* FROM (SELECT"
                " jsonb_populate_record(o, jsonb_build_object('id', %s::int, 'name',"
                " %s::text)) AS a"
                " FROM visrec.own_attachment AS o LIMIT 1) AS x",
                (ahead, f"n{ahead}"),
            )
    for number in range(4):
        posts.execute(f"CREATE TABLE t{number} (id bigint PRIMARY KEY, image_path text)")
        posts.execute(f"SELECT visrec.attach('t{number}', model => 'pixels')")


def test_the_sequence_of_ids_is_not_run_dry(mallory):
    for statement in (
        "SELECT nextval('visrec.attachment_id') FROM generate_series(1, 10)",
        "SELECT setval('visrec.attachment_id', 2147483647)",
        "ALTER SEQUENCE visrec.attachment_id RESTART 2147483647",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            mallory.execute(statement)


# Whose objects the owner's triggers find ---------------------------------------------------------

UNQUALIFIED = """
CREATE FUNCTION {schema}.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit VALUES (tg_op);
    PERFORM helper();
    RETURN NEW;
END $$;
CREATE TABLE {schema}.audit (what text);
CREATE FUNCTION {schema}.helper() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE {schema}.shop (id bigint PRIMARY KEY, image_path text);
CREATE TRIGGER note AFTER UPDATE ON {schema}.shop FOR EACH ROW EXECUTE FUNCTION {schema}.note();
"""

BAIT = """
CREATE SCHEMA bait;
GRANT USAGE ON SCHEMA bait TO PUBLIC;
CREATE FUNCTION bait.helper() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN
        PERFORM pg_catalog.nextval('bait.ran');
        IF current_user <> 'visrec_anon' THEN PERFORM pg_catalog.nextval('bait.bitten'); END IF;
        RETURN 1;
    END $$;
CREATE SEQUENCE bait.ran;
CREATE SEQUENCE bait.bitten;        -- counts also where the statement fails
GRANT ALL ON SEQUENCE bait.ran, bait.bitten TO PUBLIC;
CREATE FUNCTION bait.fire() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM bait.helper(); RETURN NEW; END $$;
CREATE TABLE bait.audit (what text);
GRANT INSERT ON bait.audit TO PUBLIC;
CREATE TRIGGER t BEFORE INSERT ON bait.audit FOR EACH ROW EXECUTE FUNCTION bait.fire();
"""


@pytest.fixture
def shop(db, roles):
    """The owner's table with an audit trigger of unqualified names, and an inserter with a bait."""
    owner, inserter = roles(), roles(ANON)
    owner.execute("CREATE SCHEMA mine")
    owner.execute(f"GRANT USAGE ON SCHEMA mine TO {ANON}")
    owner.execute(UNQUALIFIED.format(schema="mine"))
    owner.execute("SELECT visrec.attach('mine.shop', model => 'pixels')")
    owner.execute(f"GRANT SELECT, INSERT, UPDATE ON mine.shop TO {ANON}")
    db.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
            sql.Identifier(db.info.dbname), sql.Identifier(ANON)
        )
    )
    inserter.execute(BAIT)
    return inserter


def bitten(db):
    """Whether the inserter's objects ran as anybody else."""
    return db.execute("SELECT is_called FROM bait.bitten").fetchone()[0]


def test_the_bait_works(db, shop):
    """What the inserter grants, others can run: so the tests below would see it."""
    db.execute("INSERT INTO bait.audit VALUES ('x')")
    assert bitten(db)


@pytest.mark.parametrize(
    "path", ["bait", "bait, mine", "bait, public", "mine, bait", "pg_temp, bait"]
)
def test_an_inserters_schema_is_not_the_owners(db, shop, paths, path):
    shop.execute(f"SET search_path = {path}")
    with contextlib.suppress(
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.InsufficientPrivilege,
    ):
        shop.execute("INSERT INTO mine.shop VALUES (1, %s)", (paths[0],))
    assert not bitten(db)


def test_the_owners_schema_on_the_path_is_found(db, shop, paths):
    shop.execute("SET search_path = bait, mine, public")
    shop.execute("INSERT INTO mine.shop VALUES (1, %s)", (paths[0],))
    assert db.execute("SELECT what FROM mine.audit").fetchall() == [("UPDATE",)]
    assert not bitten(db)


@pytest.mark.parametrize("path", ["''", "bait", "mine", "public"])
def test_an_inserters_temporary_table_is_not_the_owners(db, shop, paths, path):
    """pg_temp is on every path: a table there, with a trigger, is the inserter's code."""
    shop.execute("CREATE TEMP TABLE audit (what text)")
    shop.execute("GRANT INSERT ON audit TO PUBLIC")
    shop.execute(
        "CREATE TRIGGER t BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION bait.fire()"
    )
    shop.execute(f"SET search_path = {path}")
    with contextlib.suppress(
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.InsufficientPrivilege,
    ):
        shop.execute("INSERT INTO mine.shop VALUES (1, %s)", (paths[0],))
    assert not bitten(db)
