"""What a hostile role may try: settings, search paths, names, values."""

import psycopg
import pytest
from psycopg import sql

from .conftest import coverage, insert

SETTINGS = ("image_roots", "max_image_bytes", "model_directory", "encoder", "python", "home")


@pytest.fixture
def stranger(posts, connect):
    """An ordinary role's session: it may read and insert into ``posts``, and create schemas."""
    posts.execute("DROP ROLE IF EXISTS visrec_stranger")
    posts.execute("CREATE ROLE visrec_stranger LOGIN PASSWORD 'x' NOSUPERUSER")
    posts.execute("GRANT SELECT, INSERT ON posts TO visrec_stranger")
    posts.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO visrec_stranger").format(
            sql.Identifier(posts.info.dbname)
        )
    )
    yield lambda **options: psycopg.connect(
        posts.info.dsn, user="visrec_stranger", password="x", autocommit=True, **options
    )
    posts.execute("DROP OWNED BY visrec_stranger CASCADE")
    posts.execute("DROP ROLE visrec_stranger")


def test_no_setting_of_a_role_chooses_files_models_or_code(posts, stranger, paths):
    lies = " ".join(f"-c visrec.{name}=/" for name in SETTINGS)
    with stranger(options=lies) as session:
        for name in SETTINGS:
            session.execute(f"SET visrec.{name} = '/'")
            session.execute("SELECT set_config('visrec.' || %s, '/', false)", (name,))
        session.execute(
            "INSERT INTO posts (id, image_path) VALUES (1, %s), (2, '/etc/hostname')", (paths[0],)
        )
    assert coverage(posts) == {"embedded": 1, "failed": 1}
    assert posts.execute("SELECT code FROM visrec.failure").fetchall() == [("outside_roots",)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT visrec.embed_image('/etc/hostname')",
        "SELECT visrec.embed_image('\\x00'::bytea, 'pixels')",
        "SELECT visrec.embed_text('x')",
        "SELECT visrec._embed('pixels', '/etc/hostname', NULL, NULL)",
        "SELECT visrec._python_embed_rows(visrec._resolve(1)::text, '{1}', false, false)",
        "SELECT visrec._python_backfill_batch(visrec._resolve(1)::text, NULL, 1, 0)",
        "SELECT visrec._duplicate_kinds(visrec._resolve(1)::text, '{1}', '{1}')",
        "SELECT visrec._file_stamps('{/etc/hostname}')",
        "SELECT visrec._principal_components('', 1, 1)",
        "SELECT visrec._encoder_status()",
        "SELECT visrec._table_1('coverage', '{}')",
        "SELECT visrec._call(1, 'coverage')",
        "SELECT visrec._monitor_coverage(1)",
        "SELECT visrec._use_model('/etc')",
        "SELECT visrec._inspect_model('x', '/etc')",
        "SELECT visrec.set('image_roots', '/')",
        "SELECT visrec.register_model('x', '/etc')",
        "SELECT visrec.attach('posts')",
        "SELECT visrec.detach('posts')",
        "SELECT visrec.retry('posts')",
        "SELECT visrec.recheck('posts')",
        "CALL visrec.reindex('posts')",
        "SELECT * FROM visrec.tune('posts')",
        "SELECT visrec.reduce('posts', 2)",
        "SELECT visrec.duplicates('posts')",
        "SELECT visrec.attach_events('posts', NULL)",
        "CALL visrec.backfill('posts')",
        "SELECT visrec.encoder_restart()",
        "SELECT visrec.encoder_warm()",
        "SELECT visrec.encoder_status()",
        "SELECT visrec.selftest()",
        "SELECT visrec.grant_access('visrec_stranger')",
        "INSERT INTO visrec.setting_value VALUES ('image_roots', '/')",
        "UPDATE visrec.model SET directory = '/tmp'",
        "INSERT INTO visrec.attachment (id, relation) VALUES (9, 'posts')",
        "INSERT INTO visrec.own_attachment SELECT 9, relation, 'x', columns, numbers, types, model,"
        " fingerprint, mode, on_error, index_method, index_metric FROM visrec.attachment",
        "INSERT INTO visrec.failed_row VALUES (1, '1', 'x', 'x', 'x')",
        "SELECT nextval('visrec.attachment_id')",
        "CREATE FUNCTION visrec.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TEMP TABLE t (LIKE posts);"
        " CREATE TRIGGER t AFTER INSERT ON t EXECUTE FUNCTION visrec._trigger_1()",
        "ALTER EVENT TRIGGER visrec_forget_dropped DISABLE",
    ],
)
def test_a_stranger_may_not(stranger, statement):
    with stranger() as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(statement)


def test_a_strangers_lines_of_failures(posts, stranger):
    """The view through which failures are written shows it those of its own tables: none."""
    insert(posts, ["nowhere.jpg"])
    with stranger() as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("INSERT INTO visrec.own_failed_row VALUES (1, '2', 'x', 'x', 'x')")
        for view in ("visrec.own_failed_row", "visrec.own_attachment"):
            assert session.execute(f"SELECT * FROM {view}").fetchall() == []
            assert session.execute(f"UPDATE {view} SET gone = true").rowcount == 0
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(f"DELETE FROM {view}")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            session.execute("DELETE FROM visrec.failure")
    assert coverage(posts) == {"failed": 1}


EVIL = """
CREATE SCHEMA evil;
CREATE TABLE evil.called (what text);
GRANT USAGE ON SCHEMA evil TO PUBLIC;
GRANT INSERT ON evil.called TO PUBLIC;
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('='); RETURN true; END $$;
CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('= bigint'); RETURN true; END $$;
CREATE FUNCTION evil.eq(name, text) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('= name'); RETURN true; END $$;
CREATE FUNCTION evil.eq(oid, oid) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('= oid'); RETURN true; END $$;
CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = name, RIGHTARG = text);
CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = oid, RIGHTARG = oid);
CREATE OPERATOR evil.> (FUNCTION = evil.eq, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR evil.<> (FUNCTION = evil.eq, LEFTARG = bigint, RIGHTARG = bigint);
CREATE FUNCTION evil.cat(text, text) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('||'); RETURN ''; END $$;
CREATE OPERATOR evil.|| (FUNCTION = evil.cat, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION evil.distance(public.vector, public.vector) RETURNS float8 LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('<=>'); RETURN 0; END $$;
CREATE OPERATOR evil.<=>
    (FUNCTION = evil.distance, LEFTARG = public.vector, RIGHTARG = public.vector);
CREATE FUNCTION evil.shift(bigint, integer) RETURNS bigint LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('>>'); RETURN 0; END $$;
CREATE OPERATOR evil.>> (FUNCTION = evil.shift, LEFTARG = bigint, RIGHTARG = integer);
CREATE OPERATOR evil.<< (FUNCTION = evil.shift, LEFTARG = bigint, RIGHTARG = integer);
CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('format'); RETURN 'SELECT 1'; END $$;
CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('sha256'); RETURN ''; END $$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('clock_timestamp'); RETURN 'epoch'; END $$;
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('set_config'); RETURN ''; END $$;
CREATE FUNCTION evil.octet_length(text) RETURNS integer LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('octet_length'); RETURN 0; END $$;
CREATE FUNCTION evil."left"(text, integer) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('left'); RETURN ''; END $$;
CREATE FUNCTION evil.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('unnest'); END $$;
CREATE FUNCTION evil.checked(text) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.called VALUES ('type text'); RETURN true; END $$;
CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.checked(VALUE));
CREATE TABLE evil.pg_trigger (tgrelid oid, tgname name, tgargs bytea, tgisinternal boolean);
CREATE TABLE evil.pg_class (oid oid, relname name);
"""


def test_a_hostile_search_path_reaches_nothing(posts, paths):
    """What runs inside visrec means pg_catalog's operators and functions, also as a superuser."""
    posts.execute(EVIL)
    posts.execute("CREATE TEMP TABLE failure (relation oid)")
    posts.execute("SET search_path = evil, pg_temp, public, pg_catalog")
    assert posts.execute("SELECT 'a' || 'b'::text").fetchone() == ("",)
    assert posts.execute("SELECT * FROM unnest('{a}'::pg_catalog.text[])").fetchall() == []
    baited = posts.execute("SELECT what FROM evil.called").fetchall()
    assert {what for (what,) in baited} == {"type text", "||", "unnest"}  # it works
    posts.execute("TRUNCATE evil.called")
    posts.execute("INSERT INTO public.posts (id, image_path) VALUES (1, $$x$$)")
    posts.execute(
        "INSERT INTO public.posts (id, image_path)"
        " SELECT n + 1, p"
        " FROM pg_catalog.unnest(%s::pg_catalog.text[]) WITH ORDINALITY AS u (p, n)",
        (paths[:4],),
    )
    posts.execute("UPDATE public.posts SET image_path = NULL WHERE id OPERATOR(pg_catalog.=) 5")
    posts.execute(
        "SELECT visrec.attach('public.posts', model => 'pixels', show_columns => '{title}')"
    )
    posts.execute("CALL visrec.backfill('public.posts')")
    posts.execute("SELECT visrec.retry('public.posts')")
    assert len(posts.execute("SELECT * FROM public.similar_posts(2, 5)").fetchall()) == 2
    for call, rows in (
        ("search_posts_by_image(%s::pg_catalog.text)", 3),
        ("recommend_posts('{2}')", 2),
        ("recommend_posts_weighted('[[2, 1]]')", 2),
        ("duplicates_posts(2, 2)", 3),
        ("failures_posts()", 1),
    ):
        values = paths[:1] * call.count("%s")
        found = posts.execute(f"SELECT * FROM public.{call}", values).fetchall()
        assert len(found) == rows, call
    posts.execute("SELECT * FROM visrec.duplicates('public.posts')")
    posts.execute("SELECT * FROM visrec.failures('public.posts')")
    posts.execute("SELECT * FROM visrec.recall('public.posts')")
    posts.execute("SELECT * FROM visrec.evaluate('public.posts', 'image_path')")
    posts.execute("SELECT visrec.recheck('public.posts')")
    states = posts.execute("SELECT * FROM visrec.coverage('public.posts')").fetchall()
    assert dict(states) == {"embedded": 3, "failed": 1, "no_image": 1, "pending": 0, "stale": 0}
    posts.execute("SELECT * FROM visrec.selftest()").fetchall()
    posts.execute("SELECT visrec.grant_access('postgres')")
    posts.execute("DELETE FROM public.posts WHERE id OPERATOR(pg_catalog.=) 1")
    posts.execute("TRUNCATE public.posts")
    posts.execute("SELECT visrec.detach('public.posts', drop_vectors => true)")
    posts.execute("DROP TABLE public.posts")
    assert posts.execute("SELECT what FROM evil.called").fetchall() == []


HOSTILE = "\"; drop table victim; --'%s $visrec$ $body$ \\"


def test_names_that_are_statements(db, paths):
    def run(statement, **values):
        parts = {name: sql.Literal(value) for name, value in values.items()}
        for n, part in enumerate(("table_", "key", "image", "shown", "vector")):
            parts[part] = sql.Identifier(HOSTILE[: 40 - n])
        relation = sql.SQL("format('%I', {})::regclass").format(sql.Literal(HOSTILE[:40]))
        return db.execute(sql.SQL(statement).format(relation=relation, **parts))

    run("CREATE TABLE victim (id int)")
    run("CREATE TABLE {table_} ({key} bigint PRIMARY KEY, {image} text, {shown} text)")
    run(
        "SELECT visrec.attach({relation}, {i}, {v}, 'pixels', show_columns => ARRAY[{s}]::name[])",
        i=HOSTILE[:38], s=HOSTILE[:37], v=HOSTILE[:36],
    )  # fmt: skip
    run(
        "INSERT INTO {table_} SELECT n, p FROM unnest({p}::text[]) WITH ORDINALITY AS u (p, n)",
        p=[*paths[:3], HOSTILE],
    )
    run("UPDATE {table_} SET {image} = {image} || 'x' WHERE {key} = 2")
    run("DELETE FROM {table_} WHERE {key} = 4")
    run("CALL visrec.backfill({relation})")
    states = run("SELECT * FROM visrec.coverage({relation}) WHERE rows > 0").fetchall()
    assert dict(states) == {"embedded": 2, "failed": 1}
    [(function,)] = run("SELECT proname FROM pg_proc WHERE proname LIKE 'similar\\_\"%'")
    similar = sql.SQL("SELECT * FROM {}(1)").format(sql.Identifier(function))
    assert len(db.execute(similar).fetchall()) == 1
    run("DROP TABLE {table_}")
    assert run("SELECT count(*) FROM pg_depend WHERE deptype = 'x'").fetchone() == (0,)
    assert run("SELECT count(*) FROM victim").fetchone() == (0,)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("x" * 1_000, "unreadable"),
        ("x" * 1_000_000, "missing"),
        ("é" * 1_000_000, "missing"),
        ("/".join(["d"] * 500_000), "missing"),
        ("../" * 300 + "etc/hostname", "outside_roots"),
        ("/etc/hostname", "outside_roots"),
        ("/proc/self/environ", "outside_roots"),
        ("~/.pgpass", "missing"),
        ("file:///etc/hostname", "unreadable"),
        ("https://example.org/x.jpg", "unreadable"),
        ("'; DROP TABLE posts; --", "missing"),
        ("a\nb\x1b[31m\u202e.jpg", "missing"),
        ("\ufeff", "missing"),
        (" ", "missing"),
        (".", "unreadable"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_paths(posts, path, code):
    posts.execute("INSERT INTO posts (id, image_path) VALUES (1, %s)", (path,))
    [(found, shown)] = posts.execute("SELECT code, image FROM visrec.failure").fetchall()
    assert (found, len(shown) <= 500) == (code, True)
    assert coverage(posts) == {"failed": 1}


def test_nul_bytes(posts):
    """PostgreSQL's text has none; the bytes of an image may."""
    with pytest.raises((psycopg.DataError, psycopg.errors.ProgramLimitExceeded)):
        posts.execute("INSERT INTO posts (id, image_path) VALUES (1, 'x' || chr(0))")
    posts.execute("CREATE TABLE raw (id int PRIMARY KEY, image bytea)")
    posts.execute("SELECT visrec.attach('raw', image_column => 'image', model => 'pixels')")
    posts.execute("INSERT INTO raw VALUES (1, decode(repeat('00', 100000), 'hex'))")
    assert coverage(posts, "raw") == {"failed": 1}


def test_a_filter_with_sql_in_it_runs_nothing(posts, paths):
    insert(posts, paths[:3])
    hostile = '{"title": "x\'); DROP TABLE posts; --", "1=1; DROP TABLE posts; --": 1}'
    with pytest.raises(psycopg.Error):
        posts.execute("SELECT * FROM similar_posts(1, 5, %s)", (hostile,))
    assert coverage(posts) == {"embedded": 3}
