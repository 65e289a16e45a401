"""Strangers at a table: who may make triggers on it, call its functions, or write its lines."""

import psycopg
import pytest

from .conftest import coverage, insert, notices

ROLES = ("visrec_alice", "visrec_eve")


@pytest.fixture
def alice(db):
    """A connection for two roles, each with a schema of its own, and alice's attached table."""
    for role in ROLES:
        db.execute(f"DROP ROLE IF EXISTS {role}")
        db.execute(f"CREATE ROLE {role}")
        db.execute(f"SELECT visrec.grant_access('{role}')")
        schema = role.removeprefix("visrec_")
        db.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
        db.execute(f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC")
    db.execute("CREATE TABLE public.loot (who name)")
    db.execute("GRANT ALL ON public.loot TO PUBLIC")
    become(db, "alice", "CREATE TABLE posts (id int PRIMARY KEY, image_path text, title text)")
    become(db, "alice", "SELECT visrec.attach('posts', model => 'pixels')")
    yield db
    db.rollback()
    become(db, None)
    for role in ROLES:
        db.execute(f"DROP OWNED BY {role} CASCADE")
        db.execute(f"DROP ROLE {role}")


def become(db, role, *statements):
    """Runs statements as alice or eve, in her schema."""
    db.execute("RESET SESSION AUTHORIZATION")
    db.execute("RESET search_path")
    if role is not None:
        db.execute(f"SET SESSION AUTHORIZATION visrec_{role}")
        db.execute(f"SET search_path = {role}, public")
    for statement in statements:
        db.execute(statement)


def loot(db):
    become(db, None)
    return {who for (who,) in db.execute("SELECT DISTINCT who FROM public.loot")}


SPY = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN NEW; END $$
"""

# What runs a stranger's code when the owner writes a row.
CODE = {
    "a trigger": [
        SPY.format(name="eve.spy"),
        "CREATE TRIGGER spy BEFORE UPDATE ON alice.posts FOR EACH ROW EXECUTE FUNCTION eve.spy()",
    ],
    "a trigger that calls a temporary function": [
        SPY.format(name="pg_temp.spy"),
        "CREATE TRIGGER spy AFTER UPDATE ON alice.posts EXECUTE FUNCTION pg_temp.spy()",
    ],
    "a trigger's condition": [
        "CREATE FUNCTION eve.look(int) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN false; END $$",
        "CREATE TRIGGER spy BEFORE UPDATE ON alice.posts FOR EACH ROW WHEN (eve.look(NEW.id))"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
    "an operator in a trigger's condition": [
        "CREATE FUNCTION eve.look(int, int) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN false; END $$",
        "CREATE OPERATOR eve.=== (FUNCTION = eve.look, LEFTARG = int, RIGHTARG = int)",
        "CREATE TRIGGER spy BEFORE UPDATE ON alice.posts FOR EACH ROW"
        " WHEN (NEW.id OPERATOR(eve.===) 1)"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
}


@pytest.mark.parametrize("code", CODE)
def test_a_strangers_trigger_does_not_run_as_the_owner(alice, paths, code):
    become(alice, "alice", "GRANT ALL ON posts TO visrec_eve")
    become(alice, "eve", *CODE[code])
    heard = notices(alice)
    alice.execute("INSERT INTO alice.posts VALUES (1, %s)", (paths[0],))
    assert loot(alice) == set()
    assert [severity for severity, _, _ in heard] == ["WARNING"]
    assert coverage(alice, "alice.posts") == {"pending": 1}
    for call in ("CALL visrec.backfill('alice.posts')", "SELECT visrec.recheck('alice.posts')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
            alice.execute(call)
        assert raised.value.diag.message_detail == (
            'Trigger "spy" depends on role "visrec_eve".'
        ), call
    assert loot(alice) == set()
    become(alice, "alice", "DROP TRIGGER spy ON posts", "CALL visrec.backfill('posts')")
    assert coverage(alice, "alice.posts") == {"embedded": 1}


def test_a_strangers_domain_cannot_be_the_key(alice, paths):
    """Its owner can give it a CHECK at any time, which keys that are written as text would run."""
    become(alice, "eve", "CREATE DOMAIN eve.number AS int")
    become(alice, "alice", "CREATE TABLE keyed (id eve.number PRIMARY KEY, image_path text)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
        alice.execute("SELECT visrec.attach('keyed', model => 'pixels')")
    assert raised.value.diag.message_detail == 'Type "number" depends on role "visrec_eve".'
    become(alice, None, "ALTER DOMAIN eve.number OWNER TO visrec_alice")
    become(alice, "alice", "SELECT visrec.attach('keyed', model => 'pixels')")
    alice.execute("INSERT INTO keyed VALUES (1, %s)", (paths[0],))
    assert coverage(alice, "keyed") == {"embedded": 1}
    become(alice, None, "ALTER DOMAIN eve.number OWNER TO visrec_eve")
    heard = notices(alice)
    alice.execute("INSERT INTO alice.keyed VALUES (2, %s)", (paths[1],))
    assert [severity for severity, _, _ in heard] == ["WARNING"]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        alice.execute("CALL visrec.backfill('alice.keyed')")


def test_a_strangers_partition_does_not_run_as_the_owner(alice, paths):
    become(
        alice,
        "alice",
        "CREATE TABLE parts (id int PRIMARY KEY, image_path text) PARTITION BY HASH (id)",
        "CREATE TABLE part PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "SELECT visrec.attach('parts', model => 'pixels')",
        "GRANT INSERT ON parts TO visrec_eve",
    )
    become(alice, None, "ALTER TABLE alice.part OWNER TO visrec_eve")
    become(
        alice,
        "eve",
        "CREATE FUNCTION look() RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN true; END $$",
        "ALTER TABLE alice.part ADD CHECK (eve.look()) NOT VALID",
    )
    alice.execute("INSERT INTO alice.parts VALUES (1, %s)", (paths[0],))
    assert loot(alice) == {"visrec_eve"}
    become(alice, None)
    assert coverage(alice, "alice.parts") == {"pending": 1}


# Functions that an owner would have known as visrec's ---------------------------------------------

RUN = (
    "CREATE FUNCTION eve2.similar_etab(q text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS"
    " 'DECLARE r text; BEGIN EXECUTE q INTO r; RETURN r; END'"
)
FORGE = (
    "UPDATE visrec.own_attachment SET shells = shells || encode(sha256(convert_to('similar_etab' ||"
    " (SELECT prosrc FROM pg_proc WHERE oid = 'eve2.similar_etab'::regproc), 'UTF8')), 'hex')"
    " WHERE relation = 'eve.etab'::regclass"
)


@pytest.fixture
def etab(alice):
    become(
        alice,
        "eve",
        "CREATE TABLE etab (id int PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('etab', model => 'pixels')",
    )
    return alice


def test_a_forged_digest_hands_no_function_over(etab):
    become(etab, None, "CREATE SCHEMA eve2 AUTHORIZATION visrec_eve")
    become(etab, "eve", RUN, FORGE, "CREATE VIEW eve2.pin AS SELECT eve2.similar_etab('select 1')")
    become(
        etab, None, "ALTER TABLE eve.etab OWNER TO postgres", "SELECT visrec.reindex('eve.etab')"
    )
    owner = etab.execute(
        "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid = 'eve2.similar_etab'::regproc"
    )
    assert owner.fetchall() == [("visrec_eve",)]
    [(known,)] = etab.execute(
        "SELECT shells FROM visrec.attachment WHERE relation = 'eve.etab'::regclass"
    )
    [(own,)] = etab.execute(
        "SELECT array_agg(visrec._shell_digest(s.name, s.body)) FROM visrec.attachment AS a,"
        " visrec._shells(a) AS s WHERE a.relation = 'eve.etab'::regclass"
    )
    assert sorted(known) == sorted(own)


def test_a_new_owner_does_not_run_the_view_of_events_of_the_one_before(etab, paths):
    become(
        etab,
        "eve",
        "CREATE FUNCTION who() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN 1; END $$",
        "CREATE VIEW ev AS SELECT 'u'::text AS user_id, eve.who() AS post_id, 1.0 AS weight,"
        " now() AS at"
        " FROM generate_series(1, 2)",
        "SELECT visrec.attach_events('etab', 'ev')",
    )
    etab.execute("INSERT INTO etab VALUES (1, %s), (2, %s)", paths[:2])
    heard = notices(etab)
    become(etab, None, "ALTER TABLE eve.etab OWNER TO postgres")
    assert [text for severity, text, _ in heard if severity == "WARNING"] == [
        'table "eve.etab" no longer has a table of events'
    ]
    with pytest.raises(psycopg.Error):
        etab.execute("SELECT * FROM visrec.evaluate_taste('eve.etab')")
    assert "postgres" not in loot(etab)


@pytest.mark.parametrize(
    "line",
    [
        "types = types || array_fill('int'::regtype, ARRAY[100])",
        "types = array_fill('int'::regtype, ARRAY[4])",
        "path = array_fill('x'::name, ARRAY[2000])",
        "fingerprint = repeat('x', 2000)",
        "event_columns = array_fill('x'::name, ARRAY[5]), events = relation",
        "components = array_fill('[1]'::vector, ARRAY[3000]), index_method = 'hnsw_reduced'",
        "components = ARRAY[array_fill(1, ARRAY[16000])::vector], index_method = 'hnsw_reduced'",
        "index_method = 'hnsw_reduced'",
        "index_method = 'x\"y', index_metric = '$$'",
    ],
)
def test_an_owner_writes_no_line_that_attach_would_not(etab, line):
    become(etab, "eve")
    with pytest.raises(psycopg.Error) as raised:
        etab.execute(f"UPDATE visrec.own_attachment SET {line}")
    assert raised.value.sqlstate == "42501", raised.value


# Locks --------------------------------------------------------------------------------------------

LINE = (
    "relation, name, columns, types, model, fingerprint, mode, on_error, index_method, index_metric"
)

HOLD = {
    "a failure": "INSERT INTO visrec.own_failed_row (attachment, row_id, code, message)"
    " VALUES (1, '7', '', '') ON CONFLICT (attachment, row_id) DO UPDATE SET code = '' WHERE false",
    "an attachment": f"INSERT INTO visrec.own_attachment (id, {LINE})"
    f" SELECT 1, {LINE} FROM visrec.own_attachment"
    " ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE false",
    "the next attachment": f"INSERT INTO visrec.own_attachment (id, {LINE})"
    f" SELECT (SELECT max(id) + 1 FROM visrec.attachment), {LINE} FROM visrec.own_attachment",
}


@pytest.mark.parametrize("what", HOLD)
def test_nobody_locks_lines_of_others(etab, what):
    become(etab, "alice", "INSERT INTO posts VALUES (7, 'nowhere.jpg')")
    become(etab, "eve")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        etab.execute(HOLD[what])


def test_other_peoples_views_do_not_keep_an_attachment_from_changing(etab, paths):
    become(etab, "alice")
    etab.execute("INSERT INTO posts VALUES (1, %s, 'a'), (2, %s, 'b')", paths[:2])
    become(
        etab,
        "eve",
        "CREATE VIEW one AS SELECT * FROM visrec._similar_1(1, 5, NULL, NULL, NULL)",
        "CREATE VIEW two AS SELECT * FROM alice.similar_posts(1)",
    )
    become(
        etab,
        "alice",
        "SELECT visrec.attach('posts', show_columns => '{title}')",
        "ALTER TABLE posts ALTER id TYPE bigint",
    )
    assert etab.execute("SELECT id, title FROM similar_posts(1)").fetchall() == [(2, "b")]
    become(etab, "alice", "SELECT visrec.detach('posts')")
    left = etab.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'posts'::regclass")
    assert left.fetchone() == (0,)


def test_ddl_of_a_schema_leaves_other_tenants_attachments_alone(etab, connect):
    """It neither waits for their transactions, nor runs their code."""
    become(
        etab,
        "eve",
        "DROP TRIGGER visrec_2_truncate ON etab",
        "ALTER TABLE etab FORCE ROW LEVEL SECURITY",
    )
    become(
        etab,
        "eve",
        SPY.format(name="spy").replace("RETURN NEW", "RETURN true").replace("trigger", "boolean"),
    )
    become(
        etab,
        "eve",
        "ALTER TABLE etab ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON etab USING (spy())",
    )
    become(etab, None, "CREATE SCHEMA unrelated")
    other = connect()
    other.execute("UPDATE visrec.attachment SET name = name")
    etab.execute("SET lock_timeout = '3s'")
    heard = notices(etab)
    etab.execute("ALTER SCHEMA unrelated RENAME TO unrelated2")
    assert heard == []
    other.rollback()
    assert loot(etab) == set()


def test_failures_are_looked_at_one_table_at_a_time(etab):
    """Whoever looks at its own runs no policy of another's."""
    become(
        etab,
        "eve",
        "CREATE FUNCTION look() RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN true; END $$",
        "INSERT INTO etab VALUES (1, 'nowhere.jpg')",
        "ALTER TABLE etab ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON etab USING (look())",
        "GRANT SELECT ON etab TO PUBLIC",
    )
    become(etab, "alice", "INSERT INTO posts VALUES (1, 'nowhere.jpg')")
    for query in ("visrec.visible_failed_row", "visrec.failures('posts')", "visrec.failure"):
        etab.execute(f"SELECT count(*) FROM {query}")
    etab.execute("SELECT * FROM similar_posts(1)")
    assert loot(etab) == set()


# Images that triggers change ----------------------------------------------------------------------

SWAP = """
CREATE FUNCTION swap() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.title LIKE '%%.jpg' THEN NEW.image_path := NEW.title; END IF; RETURN NEW; END $$
"""


def distances(db, table, image="image_path"):
    become(db, None)
    return [
        round(distance, 6)
        for (distance,) in db.execute(
            f"SELECT content_vector <=> visrec.embed_image({image}, 'pixels') FROM {table}"
            " WHERE content_vector IS NOT NULL ORDER BY id"
        )
    ]


@pytest.mark.parametrize("name", ["aa", "überschreiben", "~~~"])
@pytest.mark.parametrize("when", ["before attach", "after attach"])
def test_images_that_a_trigger_changes_in_any_update(db, paths, name, when):
    db.execute("CREATE TABLE posts (id int PRIMARY KEY, image_path text, title text)")
    trigger = f'CREATE TRIGGER "{name}" BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION swap()'
    db.execute(SWAP.replace("%%", "%"))
    attach = "SELECT visrec.attach('posts', model => 'pixels')"
    for statement in (trigger, attach) if when == "before attach" else (attach, trigger):
        db.execute(statement)
    db.execute("INSERT INTO posts VALUES (1, %s), (2, %s), (3, 'nowhere')", paths[:2])
    db.execute("UPDATE posts SET title = %s", (paths[7],))
    assert coverage(db) == {"embedded": 3}
    assert distances(db, "posts") == [0, 0, 0]
    assert db.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)
    db.execute("UPDATE posts SET title = NULL, image_path = NULL WHERE id = 1")
    assert coverage(db) == {"embedded": 2, "no_image": 1}


def test_images_that_a_strangers_trigger_changes(alice, paths):
    """The old vector does not stay: the statement fails, since nobody may run this for alice."""
    become(alice, "alice", "GRANT TRIGGER ON posts TO visrec_eve")
    alice.execute("INSERT INTO posts VALUES (1, %s)", (paths[0],))
    become(alice, "eve", SWAP.replace("%%", "%"))
    become(
        alice,
        "eve",
        "CREATE TRIGGER swap BEFORE UPDATE ON alice.posts FOR EACH ROW EXECUTE FUNCTION swap()",
    )
    become(alice, "alice")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        alice.execute("UPDATE posts SET title = %s", (paths[7],))
    assert distances(alice, "alice.posts") == [0]


def test_bytes_that_a_trigger_changes_in_their_middle(db):
    """In an UPDATE of another column, and in visrec's own write of the vector."""
    db.execute("CREATE TABLE pics (id int PRIMARY KEY, pic bytea, n int)")
    db.execute("SELECT visrec.attach('pics', image_column => 'pic', model => 'pixels')")
    db.execute(
        "INSERT INTO pics SELECT 1, convert_to(E'P6\\n512 512\\n255\\n', 'UTF8')"
        " || decode(repeat('c81e1e', 512 * 512), 'hex')"
    )
    db.execute(
        "CREATE FUNCTION paint() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.pic := overlay("
        "NEW.pic PLACING decode(repeat('0a0afa', 130000), 'hex') FROM 200000); RETURN NEW; END $$"
    )
    db.execute("CREATE TRIGGER aa BEFORE UPDATE ON pics FOR EACH ROW EXECUTE FUNCTION paint()")
    db.execute("UPDATE pics SET n = 1")
    assert coverage(db, "pics") == {"embedded": 1}
    assert distances(db, "pics", "pic") == [0]
    db.execute(
        "INSERT INTO pics SELECT 2, convert_to(E'P6\\n512 512\\n255\\n', 'UTF8')"
        " || decode(repeat('1ec81e', 512 * 512), 'hex')"
    )
    assert coverage(db, "pics") == {"embedded": 1, "pending": 1}  # visrec's own write changed it
    db.execute("CALL visrec.backfill('pics')")
    assert coverage(db, "pics") == {"embedded": 2}
    assert distances(db, "pics", "pic") == [0, 0]


def test_an_image_that_changes_at_every_write_is_pending(posts, paths):
    """And is nobody's endless loop."""
    posts.execute("CREATE SEQUENCE turn")
    posts.execute(
        "CREATE FUNCTION turn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.image_path := (%s::text[])[1 + nextval('turn') %% 8]; RETURN NEW; END $$"
        % ("'{" + ",".join(paths[:8]) + "}'")
    )
    posts.execute("CREATE TRIGGER turn BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION turn()")
    insert(posts, paths[:3])
    assert coverage(posts) == {"pending": 3}
    posts.execute("UPDATE posts SET title = 'x'")
    assert coverage(posts) == {"pending": 3}


# Names and states ---------------------------------------------------------------------------------


def test_a_key_type_with_a_placeholder_in_its_name(db, paths):
    db.execute('CREATE DOMAIN "x@user" AS bigint')
    db.execute('CREATE DOMAIN "y@key" AS bigint')
    for name in ("x@user", "y@key"):
        db.execute(f'CREATE TABLE "{name} t" (id "{name}" PRIMARY KEY, image_path text)')
        db.execute(f"""SELECT visrec.attach('"{name} t"', model => 'pixels')""")
        db.execute(f'INSERT INTO "{name} t" VALUES (1, %s), (2, %s)', paths[:2])
        assert len(db.execute(f'SELECT * FROM "similar_{name} t"(1)').fetchall()) == 1


def test_triggers_keep_their_state_when_a_type_changes(posts):
    posts.execute("ALTER TABLE posts ENABLE ALWAYS TRIGGER visrec_1_update")
    posts.execute("ALTER TABLE posts DISABLE TRIGGER visrec_1_key")
    posts.execute("ALTER TABLE posts ALTER image_path TYPE varchar")
    states = posts.execute(
        "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgrelid = 'posts'::regclass"
        " AND tgenabled <> 'O' ORDER BY 1"
    )
    assert states.fetchall() == [("visrec_1_key", "D"), ("visrec_1_update", "A")]
