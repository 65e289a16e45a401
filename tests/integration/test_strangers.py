"""Strangers at a table: who may make triggers on it, call its functions, or write its lines."""

import threading

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
LOOK = """
CREATE FUNCTION look({arguments}) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN true; END $$
"""

LIE = (
    ";CREATE FUNCTION eve.lie(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS"
    " $$ BEGIN RETURN eve.look($1); END $$"
)

# What a role with the TRIGGER privilege could have run when visrec writes a row as its owner.
TRIGGERS = {
    "a function": [
        SPY.format(name="eve.spy"),
        "CREATE TRIGGER spy BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION eve.spy()",
    ],
    "a temporary function": [
        SPY.format(name="pg_temp.spy"),
        "CREATE TRIGGER spy AFTER UPDATE ON {t} EXECUTE FUNCTION pg_temp.spy()",
    ],
    "a condition, with visrec's own function": [
        LOOK.format(arguments="text"),
        "CREATE TABLE etab (id int PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('etab', model => 'pixels')",
        "CREATE TRIGGER visrec_1_late AFTER UPDATE ON {t} FOR EACH ROW WHEN (eve.look('x'))"
        " EXECUTE FUNCTION visrec._trigger_{n}()",
    ],
    "a condition that runs text": [
        LOOK.format(arguments="text"),
        "CREATE TRIGGER spy BEFORE UPDATE ON {t} FOR EACH ROW"
        " WHEN (query_to_xml('select eve.look(''x'')', true, true, '') IS NULL)"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
}


@pytest.mark.parametrize("code", TRIGGERS)
def test_only_the_owner_makes_triggers_on_an_attached_table(alice, paths, code):
    become(alice, "alice", "GRANT ALL ON posts TO visrec_eve")
    become(alice, "eve", *TRIGGERS[code][:-1])
    number = alice.execute("SELECT max(id) FROM visrec.attachment").fetchone()[0]
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
        alice.execute(TRIGGERS[code][-1].format(t="alice.posts", n=number))
    assert raised.value.diag.message_primary == (
        'must be owner of table "alice.posts" to create triggers on it, because it is attached'
    )
    alice.execute("INSERT INTO alice.posts VALUES (1, %s)", (paths[0],))
    assert loot(alice) == set()
    assert coverage(alice, "alice.posts") == {"embedded": 1}


@pytest.mark.parametrize("code", ["a function", "a condition that runs text"])
def test_triggers_of_before_are_looked_at_first(alice, paths, code):
    become(alice, "alice", "CREATE TABLE others (id int PRIMARY KEY, image_path text)")
    become(alice, "alice", "GRANT ALL ON others TO visrec_eve")
    become(alice, "eve", *(s.format(t="alice.others") for s in TRIGGERS[code]))
    become(alice, "alice")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
        alice.execute("SELECT visrec.attach('others', model => 'pixels')")
    assert "REVOKE TRIGGER ON alice.others FROM visrec_eve;" in raised.value.diag.message_hint
    become(alice, "alice", "REVOKE TRIGGER ON others FROM visrec_eve")
    if code == "a function":  # which eve can change at any time
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            alice.execute("SELECT visrec.attach('others', model => 'pixels')")
        become(alice, None, "ALTER FUNCTION eve.spy() OWNER TO visrec_alice")
    become(alice, "alice", "SELECT visrec.attach('others', model => 'pixels')")


# What of the owner's own reaches code of another role's.
REACHES = {
    "a trigger's function": (
        SPY.format(name="eve.spy"),
        "CREATE TRIGGER x BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION eve.spy()",
    ),
    "an operator": (
        LOOK.format(arguments="int, int")
        + "; CREATE OPERATOR eve.=== (FUNCTION = eve.look, LEFTARG = int, RIGHTARG = int)",
        "ALTER TABLE t ADD CHECK (id OPERATOR(eve.===) 1)",
    ),
    "a domain in a CHECK": (
        LOOK.format(arguments="text"),
        "CREATE DOMAIN d AS text CHECK (eve.look(VALUE));ALTER TABLE t ADD CHECK (title::d <> 'x')",
    ),
    "a rule": (
        "CREATE TABLE eve.log (who text); GRANT ALL ON eve.log TO PUBLIC;"
        + SPY.format(name="eve.spy")
        + ";CREATE TRIGGER spy BEFORE INSERT ON eve.log FOR EACH ROW EXECUTE FUNCTION eve.spy()",
        "CREATE RULE r AS ON UPDATE TO t DO ALSO INSERT INTO eve.log VALUES ('u')",
    ),
    "a policy's view": (
        LOOK.format(arguments="text")
        + ";CREATE VIEW eve.v AS SELECT 1 AS one WHERE eve.look('x'); GRANT ALL ON eve.v TO PUBLIC",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;"
        " CREATE POLICY p ON t USING (EXISTS (SELECT FROM eve.v)) WITH CHECK (true)",
    ),
    "a generated column": (
        LOOK.format(arguments="text") + LIE,
        "ALTER TABLE t ADD made boolean GENERATED ALWAYS AS (eve.lie(title)) STORED",
    ),
    "a condition of a trigger with visrec's own function": (
        LOOK.format(arguments="text"),
        "DO $$ BEGIN EXECUTE (SELECT format('CREATE TRIGGER x AFTER UPDATE ON t FOR EACH ROW"
        " WHEN (eve.look(NEW.title)) EXECUTE FUNCTION visrec._trigger_%s()', max(id))"
        " FROM visrec.attachment)~ END $$",
    ),
    "an index": (
        LOOK.format(arguments="text") + LIE,
        "CREATE INDEX ON t (eve.lie(title))",
    ),
    "what the planner computes for statistics": (
        LOOK.format(arguments="text") + LIE,
        "CREATE STATISTICS s ON (title || eve.lie('x')), id FROM t",
    ),
}


@pytest.mark.parametrize("what", REACHES)
def test_code_of_others_that_the_owner_uses_does_not_run_as_the_owner(alice, paths, what):
    theirs, own = REACHES[what]
    become(alice, "eve", *theirs.split(";C")[:1], *("C" + s for s in theirs.split(";C")[1:]))
    become(
        alice,
        "alice",
        "CREATE TABLE t (id int PRIMARY KEY, image_path text, title text)",
        "SELECT visrec.attach('t', model => 'pixels')",
        *(s.replace("~", ";") for s in own.split(";")),
        "GRANT INSERT ON t TO visrec_eve",
    )
    become(alice, None, "TRUNCATE public.loot")
    become(alice, "eve")
    heard = notices(alice)
    alice.execute("INSERT INTO alice.t VALUES (1, %s)", (paths[0],))
    assert "visrec_alice" not in loot(alice)
    assert [severity for severity, _, _ in heard] == ["WARNING"]
    become(alice, "alice")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
        alice.execute("CALL visrec.backfill('alice.t')")
    assert raised.value.diag.message_detail.endswith('depends on role "visrec_eve".')
    assert "visrec_alice" not in loot(alice)


@pytest.mark.parametrize(
    "made",
    [
        "CREATE INDEX ON t ((id + eve.zero()))",
        "CREATE INDEX ON t (id) WHERE id > eve.zero()",
        "CREATE STATISTICS s ON (id + eve.zero()), image_path FROM t",
        "ALTER TABLE t ADD CHECK (id > eve.zero())",
    ],
)
def test_code_of_others_that_the_planner_runs_does_not_run_as_the_owner(alice, made):
    """Whatever the statement: it computes what does not depend on a row."""
    become(
        alice,
        "eve",
        "CREATE FUNCTION zero() RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        " $$ BEGIN IF current_user = 'visrec_alice' THEN RAISE WARNING 'looted'; END IF;"
        " RETURN 0; END $$",
    )
    become(
        alice,
        "alice",
        "CREATE TABLE t (id int PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('t', model => 'pixels')",
        made,
    )
    become(alice, None, "SELECT visrec.grant_access('visrec_eve', 'monitor')")
    become(alice, "eve", "SET constraint_exclusion = on")
    heard = notices(alice)
    alice.execute("SELECT * FROM visrec.coverage('alice.t')")
    assert [message for _, message, _ in heard] == [
        'could not count the rows of table "alice.t": '
        'table "alice.t" would run code of a stranger as its owner'
    ]


KEYS = {
    "a domain of another's": "eve.number",
    "a domain over one": "d",
    "a domain whose CHECK calls another's function": "c",
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_that_reach_code_of_others_are_refused(alice, key):
    become(
        alice,
        "eve",
        "CREATE DOMAIN number AS int",
        LOOK.format(arguments="int"),
    )
    become(
        alice,
        "alice",
        "CREATE DOMAIN d AS eve.number",
        "CREATE DOMAIN c AS int CHECK (eve.look(VALUE))",
        f"CREATE TABLE t (id {KEYS[key]} PRIMARY KEY, image_path text)",
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
        alice.execute("SELECT visrec.attach('t', model => 'pixels')")
    assert raised.value.diag.message_detail.endswith(' role "visrec_eve".')


def test_a_strangers_domain_cannot_be_the_key(alice, paths):
    """Its owner can give it a CHECK at any time, which keys that are written as text would run."""
    become(alice, "eve", "CREATE DOMAIN eve.number AS int")
    become(alice, "alice", "CREATE TABLE keyed (id eve.number PRIMARY KEY, image_path text)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
        alice.execute("SELECT visrec.attach('keyed', model => 'pixels')")
    assert raised.value.diag.message_detail.endswith(' role "visrec_eve".')
    become(
        alice,
        None,
        "ALTER DOMAIN eve.number OWNER TO visrec_alice",
        "ALTER DOMAIN eve.number SET SCHEMA alice",
    )
    become(alice, "alice", "SELECT visrec.attach('keyed', model => 'pixels')")
    alice.execute("INSERT INTO keyed VALUES (1, %s)", (paths[0],))
    assert coverage(alice, "keyed") == {"embedded": 1}
    become(alice, None, "ALTER DOMAIN alice.number OWNER TO visrec_eve")
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
    bare = "SELECT id FROM alice.parts WHERE content_vector IS NULL"
    assert alice.execute(bare).fetchall() == [(1,)]


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
        etab,
        None,
        "ALTER SCHEMA eve OWNER TO postgres",
        "ALTER TABLE eve.etab OWNER TO postgres",
        "CALL visrec.reindex('eve.etab')",
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
    become(
        etab, None, "ALTER SCHEMA eve OWNER TO postgres", "ALTER TABLE eve.etab OWNER TO postgres"
    )
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


LATE = {
    "an AFTER trigger changes the key": """
        CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF pg_trigger_depth() = 1 THEN
                UPDATE posts SET id = NEW.id + 100 WHERE id = NEW.id;
            END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER aaa AFTER UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION more()""",
    "a BEFORE trigger forbids the next UPDATE": """
        CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.title IS NOT NULL THEN RETURN NULL; END IF; RETURN NEW; END $$;
        CREATE TRIGGER aaa BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION more()""",
    "a BEFORE trigger puts the vector back": """
        CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.content_vector := OLD.content_vector; RETURN NEW; END $$;
        CREATE TRIGGER "~~~~" BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION more()""",
}


@pytest.mark.parametrize("what", LATE)
def test_a_vector_that_cannot_be_removed_fails_the_statement(posts, paths, what):
    insert(posts, paths[:2])
    posts.execute(SWAP.replace("%%", "%"))
    posts.execute("CREATE TRIGGER swap BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION swap()")
    posts.execute(LATE[what])
    with pytest.raises(psycopg.errors.TriggeredDataChangeViolation):
        posts.execute("UPDATE posts SET title = %s WHERE id = 1", (paths[7],))
    assert distances(posts, "posts") == [0, 0]


def test_two_attachments_of_images_that_change_at_every_write(posts, paths):
    """And is nobody's endless loop."""
    posts.execute(
        "SELECT visrec.attach('posts', vector_column => 'v2', model => 'pixels', name => 'two')"
    )
    posts.execute(
        "CREATE FUNCTION turn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.title := coalesce(OLD.title, '') || 'x';"
        f" NEW.image_path := ('{{{','.join(paths[:8])}}}'::text[])[1 + length(NEW.title) % 8];"
        " RETURN NEW; END $$"
    )
    insert(posts, paths[:1])
    posts.execute("CREATE TRIGGER turn BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION turn()")
    posts.execute("UPDATE posts SET category = 'x'")
    posts.execute("INSERT INTO posts (id, image_path) VALUES (2, %s)", (paths[1],))
    for name in ("posts", "two"):
        states = posts.execute(
            "SELECT state FROM visrec.coverage('posts', %s) WHERE rows > 0", (name,)
        )
        assert {state for (state,) in states} <= {"pending", "stale"}, name


def test_other_bytes_of_the_same_length_lose_their_vectors_at_attach(db):
    """Also where only their middle differs."""
    db.execute("CREATE TABLE pics (id int PRIMARY KEY, a bytea, b bytea)")
    db.execute("SELECT visrec.attach('pics', image_column => 'a', model => 'pixels')")
    picture = (
        "convert_to(E'P6\n256 256\n255\n', 'UTF8') || decode(repeat('404040', 20000) ||"
        " repeat('%s', 25536) || repeat('404040', 20000), 'hex')"
    )
    db.execute(f"INSERT INTO pics SELECT 1, {picture % 'ff0000'}, {picture % '0000ff'}")
    db.execute("SELECT visrec.attach('pics', image_column => 'b')")
    assert coverage(db, "pics") == {"pending": 1}
    db.execute("CALL visrec.backfill('pics')")
    assert distances(db, "pics", "b") == [0]


def test_recheck_fires_triggers_that_name_things_unqualified(posts, paths):
    insert(posts, paths[:1])
    posts.execute("CREATE TABLE audit (id bigint)")
    posts.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NULL; END $$"
    )
    posts.execute("CREATE TRIGGER note AFTER UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION note()")
    posts.execute("UPDATE posts SET content_vector_source[2] = 0")
    assert posts.execute("SELECT visrec.recheck('posts')").fetchone() == (1,)


def test_updates_of_other_columns_go_on_where_the_key_is_gone(posts, paths):
    insert(posts, paths[:1])
    posts.execute(
        "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    )
    posts.execute("CREATE TRIGGER same BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION same()")
    posts.execute("ALTER TABLE posts DROP CONSTRAINT posts_pkey")
    posts.execute("UPDATE posts SET title = 'new'")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        posts.execute("UPDATE posts SET image_path = 'other'")


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


# Snapshots: catalogs are read as of the transaction's beginning, and triggers fire as of now -----


def test_an_old_snapshot_lets_no_trigger_in(alice, connect, paths):
    old = connect(autocommit=True)
    become(old, "eve")
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    old.execute("SELECT 1")
    become(
        alice,
        "alice",
        "CREATE TABLE late (id int PRIMARY KEY, image_path text)",
        "GRANT ALL ON late TO visrec_eve",
        "SELECT visrec.attach('late', model => 'pixels')",
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        old.execute(
            "CREATE TRIGGER t BEFORE UPDATE ON alice.late FOR EACH ROW"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        )


def test_attach_waits_for_triggers_that_are_being_made(alice, connect):
    become(alice, "alice", "CREATE TABLE late (id int PRIMARY KEY, image_path text)")
    become(alice, "alice", "GRANT ALL ON late TO visrec_eve")
    other = connect()
    become(other, "eve")
    other.execute(
        "CREATE TRIGGER t BEFORE UPDATE ON alice.late FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    threading.Timer(1, other.commit).start()
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may be others'"):
        alice.execute("SELECT visrec.attach('late', model => 'pixels')")


def test_attach_in_an_old_snapshot_is_refused(alice):
    become(alice, "alice", "CREATE TABLE late (id int PRIMARY KEY, image_path text)")
    alice.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="REPEATABLE READ"):
        alice.execute("SELECT visrec.attach('late', model => 'pixels')")
    alice.execute("ROLLBACK")


def test_a_table_dropped_in_an_old_snapshot_leaves_no_line(alice, connect):
    old = connect(autocommit=True)
    become(alice, "eve", "CREATE TABLE k (id int PRIMARY KEY, image_path text)")
    become(old, "eve")
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    old.execute("SELECT 1")
    alice.execute("SELECT visrec.attach('k', model => 'pixels')")
    old.execute("DROP TABLE k")
    old.execute("COMMIT")
    become(alice, None)
    become(alice, None, "CREATE TABLE other ()", "DROP TABLE other")  # whoever drops a table next
    left = alice.execute("SELECT count(*) FROM visrec.attachment").fetchone()
    assert left == (1,)


def test_a_new_owner_is_told_of_the_code_that_is_there(etab):
    become(etab, "eve", SPY.format(name="spy"))
    become(
        etab, "eve", "CREATE TRIGGER s BEFORE UPDATE ON etab FOR EACH ROW EXECUTE FUNCTION spy()"
    )
    heard = notices(etab)
    become(etab, None, "ALTER TABLE eve.etab OWNER TO visrec_alice")
    assert any("may be those of role" in text for _, text, _ in heard)
