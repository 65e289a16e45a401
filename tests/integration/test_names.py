"""Names of every kind: of columns, tables, schemas, attachments and roles."""

import psycopg
import pytest
from psycopg import sql

from .conftest import coverage, notices

# Names of visrec's own statements, of their parameters and aliases, and those that need quoting.
NAMES = [
    "visrec_query", "visrec_pool", "visrec_ids", "ids", "distances", "new_rows", "n", "d", "v",
    "key", "source", "$1", "$2", "$3", "t", "r", "f", "s", "u", "e", "i", "id", "k", "filter",
    "similarity", "position", "user", "select", 'weird "" name', 'weird " name', "%s", "%1$s", "%I",
    "%%", "{}", "a.b", "Ünïcode", "back\\slash", "it's", " ", "x;--", "a, b", "a = b", "search",
    "query", "found", "pool", "column_2", "liked", "embedding", "stamp",
]  # fmt: skip
RESERVED = {
    "id",
    "k",
    "filter",
    "similarity",
    "query",
    "liked",
}  # arguments and results of the search functions


def named(template, *names, **more):
    """A statement with quoted identifiers."""
    parts = {key: sql.Identifier(value) for key, value in more.items()}
    return sql.SQL(template).format(*(sql.Identifier(name) for name in names), **parts)


def regclass(*names):
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


@pytest.mark.parametrize("name", NAMES, ids=repr)
@pytest.mark.one_in(6)
def test_columns_that_are_there_or_come_later(posts, paths, name):
    """A column of any name that visrec has nothing to do with breaks no statement of visrec's."""
    insert_four(posts, paths, "posts")
    if name == "id":
        posts.execute("ALTER TABLE posts RENAME id TO number")
    for kind in ("bigint[]", "text"):  # of a type that such a name could be taken for, and another
        posts.execute(named(f"ALTER TABLE posts ADD COLUMN {{}} {kind}", name))
        use_everything(posts, "posts", paths)
        posts.execute(named("ALTER TABLE posts DROP COLUMN {}", name))


def use_everything(db, table, paths):
    """Each statement of visrec's that names rows: those of four pictures.

    ``table`` is quoted as a regclass prints it.
    """
    [(schema, name, key, image, shown)] = db.execute(
        "SELECT n.nspname, a.name, a.key_column, a.image_column, a.show_columns"
        " FROM visrec.attached AS a JOIN pg_class AS c ON c.oid = a.relation"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE a.relation = %s::regclass",
        (table,),
    ).fetchall()
    relation = sql.Literal(table) + sql.SQL("::regclass")
    [(relname,)] = db.execute("SELECT relname FROM pg_class WHERE oid = %s::regclass", (table,))

    def run(statement, function="", **values):
        return db.execute(
            sql.SQL(statement).format(
                table=sql.Identifier(schema, relname),
                relation=relation,
                function=sql.Identifier(schema, function.replace("@", name)),
                key=sql.Identifier(key),
                image=sql.Identifier(image),
                column=sql.Literal(image),
                **{value: sql.Literal(values[value]) for value in values},
            )
        )

    assert coverage(db, table) == {"embedded": 4}
    for call, rows in (("(1)", 3), ("(1, 2, '{{}}', 2)", 2), ("(1, strict => true)", 3)):
        found = run("SELECT * FROM {function}" + call, "similar_@")
        assert [column.name for column in found.description] == ["id", "similarity", image, *shown]
        assert len(found.fetchall()) == rows
    for strategy in ("mean", "session", "best_score"):
        found = run(
            "SELECT * FROM {function}('{{1,2}}', '{{3}}', strategy => {how}, diversity => 0.5)",
            "recommend_@",
            how=strategy,
        )
        assert [row[0] for row in found.fetchall()] == [4]
    found = run("SELECT * FROM {function}('[[1, 2], [2, -1]]')", "recommend_@_weighted")
    assert len(found.fetchall()) == 2
    found = run("SELECT * FROM {function}({path})", "search_@_by_image", path=paths[0])
    assert found.fetchall()[0][0] == 1
    assert len(run("SELECT * FROM {function}(5, 2)", "duplicates_@").fetchall()) == 6
    assert run("SELECT * FROM {function}()", "failures_@").fetchall() == []
    assert run("SELECT recall FROM visrec.recall({relation}, 2)").fetchone() == (1,)
    run("SELECT * FROM visrec.evaluate({relation}, {column})").fetchall()
    taste = run("SELECT vector_dims(visrec.taste({relation}, '{{1,2}}'::bigint[]))")
    assert taste.fetchone() == (512,)
    assert run("SELECT visrec.recheck({relation})").fetchone() == (0,)
    run("UPDATE {table} SET {image} = 'nowhere.jpg' WHERE {key} = 4")
    assert coverage(db, table) == {"embedded": 3, "failed": 1}
    assert run("SELECT id, code FROM {function}()", "failures_@").fetchall() == [(4, "missing")]
    assert run("SELECT visrec.retry({relation})").fetchone() == (0,)
    run("UPDATE {table} SET {key} = 5 WHERE {key} = 4")
    assert coverage(db, table) == {"embedded": 3, "pending": 1}
    run("CALL visrec.backfill({relation})")
    assert coverage(db, table) == {"embedded": 3, "failed": 1}
    run("DELETE FROM {table} WHERE {key} = 5")
    run("INSERT INTO {table} ({key}, {image}) VALUES (4, {path})", path=paths[3])
    assert db.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)
    assert coverage(db, table) == {"embedded": 4}


def insert_four(db, paths, *table):
    db.execute(
        sql.SQL(
            "INSERT INTO {} SELECT n, p FROM unnest({}::text[]) WITH ORDINALITY AS u (p, n)"
        ).format(sql.Identifier(*table), sql.Literal(paths[:4]))
    )


@pytest.mark.parametrize("name", NAMES, ids=repr)
@pytest.mark.one_in(6)
def test_tables_and_schemas_with_such_names(db, paths, name):
    """Key, image, vector and a shown column, the table and its schema: all have an odd name."""
    table = regclass(name, name)
    key, image, vector = f"{name}1", f"{name}2", f"{name}3"
    db.execute(named("CREATE SCHEMA {}", name))
    shown = name if name not in RESERVED | {"user", "position"} else f"{name}4"
    db.execute(
        named(
            "CREATE TABLE {schema}.{table} ({key} bigint PRIMARY KEY, {image} text, {shown} int)",
            schema=name,
            table=name,
            key=key,
            image=image,
            shown=shown,
        )
    )
    db.execute(
        "SELECT visrec.attach(%s::regclass, %s, %s, 'pixels', show_columns => ARRAY[%s]::name[])",
        (table, image, vector, shown),
    )
    attached = db.execute("SELECT name, image_column, vector_column, problem FROM visrec.attached")
    assert attached.fetchall() == [(name, image, vector, None)]
    insert_four(db, paths, name, name)
    use_everything(db, table, paths)
    db.execute("CALL visrec.reindex(%s::regclass, 'ivfflat')", (table,))
    db.execute("SELECT visrec.attach(%s::regclass)", (table,))
    use_everything(db, table, paths)
    db.execute("SELECT visrec.detach(%s::regclass, drop_vectors => true)", (table,))
    left = db.execute(
        "SELECT count(*) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname = %s",
        (name,),
    )
    assert left.fetchone() == (0,)


def test_events_with_such_names(posts, paths):
    insert_four(posts, paths, "posts")
    posts.execute(
        named(
            "CREATE TABLE {t} ({u} text, {i} bigint, {w} float, {a} timestamptz)",
            t="$2",
            u="e",
            i='weird "" name',
            w="%s",
            a="select",
        )
    )
    posts.execute(
        named("INSERT INTO {} VALUES ('o''x', 1, 1, now()), ('o''x', 2, -1, now())", "$2")
    )
    posts.execute(
        "SELECT visrec.attach_events('posts', '\"$2\"', 'e', %s, '%%s', 'select')",
        ('weird "" name',),
    )
    found = posts.execute("SELECT id FROM recommend_posts_for('o''x')").fetchall()
    assert sorted(found) == [(3,), (4,)]
    posts.execute("SELECT * FROM visrec.evaluate_taste('posts')").fetchall()
    assert posts.execute("SELECT * FROM recommend_posts_for('nobody')").fetchall() == []


# A table named as one of visrec's own is in a schema on the search_path, and so are its columns.
@pytest.mark.parametrize(
    "name", ["attachment", "failure", "failed_row", "attached", "model", "setting", "t"]
)
def test_tables_named_as_those_of_visrec(db, paths, name):
    db.execute(named("CREATE TABLE {} (id bigint PRIMARY KEY, image_path text)", name))
    db.execute("SELECT visrec.attach(%s::regclass, model => 'pixels')", (regclass(name),))
    insert_four(db, paths, name)
    use_everything(db, regclass(name), paths)


LONG = "a_name_as_long_as_postgresql_allows_for_a_table_or_an_attachmen"


def test_attachments_with_names_of_63_bytes(db, paths):
    """Two that differ in the last byte only, and one of characters of several bytes."""
    names = [f"{LONG[:-1]}1", f"{LONG[:-1]}2", "ü" * 31 + "x"]
    assert all(len(name.encode()) == 63 for name in names)
    for n, name in enumerate(names):
        db.execute(named("CREATE TABLE {} (id bigint PRIMARY KEY, image_path text)", name))
        db.execute("SELECT visrec.attach(%s::regclass, model => 'pixels')", (regclass(name),))
        for row in (0, 1):
            db.execute(
                named("INSERT INTO {} VALUES (%s, %s)", name), (10 * n + row, paths[2 * n + row])
            )
    functions = db.execute(
        "SELECT p.proname FROM pg_proc AS p WHERE p.proname LIKE 'similar\\_%'"
        " AND p.pronamespace = 'public'::regnamespace"
        " ORDER BY substring(p.prosrc FROM '_similar_([0-9]+)')::int"
    ).fetchall()
    assert len(functions) == 3
    for n, (function,) in enumerate(functions):
        assert len(function.encode()) <= 63
        found = db.execute(named("SELECT id FROM {}(%s)", function), (10 * n,)).fetchall()
        assert found == [(10 * n + 1,)]
    for name in names:
        assert coverage(db, regclass(name)) == {"embedded": 2}
        db.execute("SELECT visrec.detach(%s::regclass)", (regclass(name),))
    left = db.execute(
        "SELECT count(*) FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace AND prosrc LIKE '%visrec.%'"
    )
    assert left.fetchone() == (0,)


def test_several_attachments_of_one_table_with_names_of_63_bytes(posts, paths):
    posts.execute("ALTER TABLE posts ADD COLUMN back text")
    names = [f"{LONG[:-1]}{n}" for n in (1, 2)]
    for name in names:
        posts.execute(
            "SELECT visrec.attach('posts', 'back', %s, name => %s, model => 'pixels')",
            (f"vectors_{name[-1]}", name),
        )
    posts.execute("INSERT INTO posts (id, back) VALUES (1, %s), (2, %s)", paths[:2])
    for name in names:
        rows = posts.execute("SELECT * FROM visrec.coverage('posts', %s) WHERE rows > 0", (name,))
        assert rows.fetchall() == [("embedded", 2)]
    assert coverage(posts) == {"no_image": 2}
    posts.execute("SELECT visrec.detach('posts', true, %s)", (names[0],))
    rows = posts.execute("SELECT * FROM visrec.coverage('posts', %s) WHERE rows > 0", (names[1],))
    assert rows.fetchall() == [("embedded", 2)]


def test_vector_columns_with_names_of_63_bytes(posts, paths):
    """Each has a column of sources of its own."""
    names = [f"{LONG[:-1]}1", f"{LONG[:-1]}2", "ü" * 31 + "x"]
    for n, name in enumerate(names):
        posts.execute(
            "SELECT visrec.attach('posts', vector_column => %s, name => %s, model => 'pixels')",
            (name, f"long{n}"),
        )
    insert_two = "INSERT INTO posts (id, image_path) VALUES (1, %s), (2, %s)"
    posts.execute(insert_two, paths[:2])
    for n in range(len(names)):
        posts.execute("SELECT visrec.attach('posts', name => %s)", (f"long{n}",))
        rows = posts.execute(
            "SELECT * FROM visrec.coverage('posts', %s) WHERE rows > 0", (f"long{n}",)
        )
        assert rows.fetchall() == [("embedded", 2)]


def test_a_shown_column_is_quoted_where_its_name_needs_it(posts, paths):
    for name in ("user", "Title", "position"):
        posts.execute(named("ALTER TABLE posts ADD COLUMN {} text DEFAULT 'x'", name))
    posts.execute("SELECT visrec.attach('posts', show_columns => '{user,Title,position}')")
    posts.execute("INSERT INTO posts (id, image_path) VALUES (1, %s), (2, %s)", paths[:2])
    row = posts.execute('SELECT "user", "Title", "position" FROM similar_posts(1)').fetchone()
    assert row == ("x", "x", "x")


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "similarity",
        "k",
        "filter",
        "weighted",
        "user_id",
        "history",
        "strict",
        "seen",
        "liked",
    ],
)
def test_a_shown_column_cannot_have_the_name_of_an_argument(posts, name):
    if name != "id":
        posts.execute(named("ALTER TABLE posts ADD COLUMN {} text", name))
    with pytest.raises(psycopg.errors.InvalidParameterValue) as raised:
        posts.execute("SELECT visrec.attach('posts', show_columns => %s)", ([name],))
    assert raised.value.diag.message_primary == f'column "{name}" cannot be shown'


# A schema visrec that is there before CREATE EXTENSION -------------------------------------------


@pytest.fixture
def bare(db, connect):
    """A database of the same cluster without the extension; dropped afterwards."""
    db.execute("DROP DATABASE IF EXISTS visrec_bare")
    db.execute("CREATE DATABASE visrec_bare TEMPLATE template0")
    db.execute("DROP ROLE IF EXISTS visrec_early")
    db.execute("CREATE ROLE visrec_early")
    db.execute("GRANT CREATE ON DATABASE visrec_bare TO visrec_early")
    connection = psycopg.connect(
        db.info.dsn, dbname="visrec_bare", password=db.info.password, autocommit=True
    )
    yield connection
    connection.close()
    db.execute("DROP DATABASE visrec_bare")
    db.execute("DROP ROLE visrec_early")


EARLY = {
    "its own": "SET ROLE visrec_early; CREATE SCHEMA visrec; RESET ROLE",
    "granted": "CREATE SCHEMA visrec; GRANT CREATE ON SCHEMA visrec TO visrec_early",
    "everybody's": "CREATE SCHEMA visrec; GRANT ALL ON SCHEMA visrec TO PUBLIC",
    "a function": "CREATE SCHEMA visrec;"
    " CREATE FUNCTION visrec._find(x int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a table": "CREATE SCHEMA visrec; CREATE TABLE visrec.x ()",
    "a type": "CREATE SCHEMA visrec; CREATE TYPE visrec.x AS ENUM ()",
    "an operator": "CREATE SCHEMA visrec;"
    " CREATE OPERATOR visrec.= (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)",
}


@pytest.mark.parametrize("early", EARLY)
def test_a_schema_visrec_of_somebody_else_is_refused(bare, early):
    for statement in EARLY[early].split(";"):
        bare.execute(statement)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
        bare.execute("CREATE EXTENSION visrec CASCADE")
    assert (
        raised.value.diag.message_primary == 'schema "visrec" already exists and is not safe to use'
    )
    assert raised.value.diag.message_hint == (
        "Drop or rename it; CREATE EXTENSION creates its own."
    )
    bare.execute("ALTER SCHEMA visrec RENAME TO earlier")
    bare.execute("CREATE EXTENSION visrec CASCADE")
    [(owner,)] = bare.execute(
        "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'visrec'"
    ).fetchall()
    assert owner == "postgres"


def test_an_empty_schema_visrec_of_ones_own_is_used(bare):
    bare.execute("CREATE SCHEMA visrec")
    bare.execute("CREATE EXTENSION visrec CASCADE")
    with bare.transaction():
        bare.execute("SET LOCAL ROLE visrec_early")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), bare.transaction():
            bare.execute("CREATE TABLE visrec.x ()")
        assert bare.execute("SELECT name FROM visrec.model").fetchall() == [("pixels",)]


# What an attachment says, written by its owner, is nowhere part of a statement unquoted ----------


def refusal(db, statement):
    try:
        db.execute(statement)
    except psycopg.Error as error:
        return error
    return None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "x(); DROP TABLE victim; --"),
        ("on_error", "raise'; DROP TABLE victim; --"),
        ("model", "pixels'; DROP TABLE victim; --"),
        ("fingerprint", "'; DROP TABLE victim; --"),
        ("index_method", "hnsw'; DROP TABLE victim; --"),
        ("index_metric", "cosine); DROP TABLE victim; --"),
        ("shells", '{"\'; DROP TABLE victim; --"}'),
        ("event_columns", '{"x; DROP TABLE victim; --","y","z","w"}'),
        ("operators", '{"= 1); DROP TABLE victim; --","> 1); DROP TABLE victim; --"}'),
        ("weights", "1"),
        ("columns", '{"id; DROP TABLE victim; --",image_path,content_vector,x}'),
        ("types", "{bigint,text,vector,text}"),
        ("components", "{}"),
        ("reduction", "-7"),
        ("numbers", "{9,9,9,9}"),
    ],
)
@pytest.mark.one_in(3)
def test_what_an_owner_writes_into_its_attachment_runs_nothing(posts, paths, column, value):
    """An owner may write its attachment's line itself; a superuser then works on the table."""
    posts.execute("CREATE TABLE victim ()")
    posts.execute("DROP ROLE IF EXISTS visrec_writer")
    posts.execute("CREATE ROLE visrec_writer")
    try:
        posts.execute("ALTER TABLE posts OWNER TO visrec_writer")
        posts.execute("SELECT visrec.attach('posts')")
        posts.execute("SELECT visrec.attach_events('posts', 'posts', 'id', 'id', NULL, 'title')")
        posts.execute("INSERT INTO posts (id, image_path) VALUES (1, %s), (2, %s)", paths[:2])
        posts.execute("SET ROLE visrec_writer")
        change = sql.SQL("UPDATE visrec.own_attachment SET {} = {}").format(
            sql.Identifier(column), sql.Literal(value)
        )
        refusals = [refusal(posts, change)]
        posts.execute("RESET ROLE")
        refusals += [
            refusal(posts, statement)
            for statement in (
                "SELECT * FROM visrec.coverage('posts')",
                "CALL visrec.backfill('posts')",
                "SELECT visrec.retry('posts')",
                "SELECT visrec.recheck('posts')",
                "SELECT * FROM similar_posts(1)",
                "SELECT * FROM recommend_posts('{1}')",
                "SELECT * FROM recommend_posts_for(1)",
                "SELECT * FROM visrec.evaluate_taste('posts')",
                "SELECT * FROM visrec.duplicates('posts')",
                "SELECT * FROM visrec.recall('posts')",
                "INSERT INTO posts (id, image_path) VALUES (3, 'x')",
                "UPDATE posts SET image_path = 'y' WHERE id = 3",
                "DELETE FROM posts WHERE id = 3",
                "CALL visrec.reindex('posts')",
                "SELECT visrec.attach('posts')",
                "SELECT visrec.attach_events('posts', NULL)",
                "SELECT visrec.detach('posts')",
            )
        ]
        # What is wrong is said in plain words: no syntax error, nothing internal.
        assert [
            error
            for error in refusals
            if error and (error.sqlstate == "42601" or error.sqlstate.startswith("XX"))
        ] == []
        posts.execute("SELECT FROM victim")
    finally:
        posts.execute("RESET ROLE")
        posts.execute("DROP OWNED BY visrec_writer CASCADE")
        posts.execute("DROP ROLE visrec_writer")


def test_messages_name_objects_in_quotes_once(db):
    db.execute('CREATE TABLE "Posts" (id int PRIMARY KEY, image_path text)')
    db.execute("INSERT INTO \"Posts\" VALUES (1, 'x')")
    heard = notices(db)
    db.execute("SELECT visrec.attach('\"Posts\"', model => 'pixels')")
    assert heard == [
        (
            "NOTICE",
            '1 row of table "public.Posts" has an image but no vector',
            "CALL visrec.backfill('public.\"Posts\"');",
        ),
    ]
    db.execute("CALL visrec.backfill('public.\"Posts\"')")  # as the hint says
    with pytest.raises(psycopg.errors.NoDataFound) as raised:
        db.execute('SELECT * FROM "similar_Posts"(1, strict => true)')
    assert raised.value.diag.message_primary == 'row 1 of table "public.Posts" has no vector'
    assert raised.value.diag.message_hint == ("SELECT * FROM visrec.coverage('public.\"Posts\"');")
