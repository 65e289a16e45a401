"""A database in which visrec is used in every way, and what must be true of it afterwards."""

import shutil
from typing import NamedTuple

import psycopg
import pytest

OWNER, READER = ROLES = "upgrade_owner", "upgrade_reader"


class Table(NamedTuple):
    name: str
    similar: str
    key: str = "id"
    image: str = "image_path"
    vector: str = "content_vector"


TABLES = [
    Table("public.posts", "public.similar_posts"),
    Table("public.parted", "public.similar_parted"),
    Table("shop.owned", "shop.similar_owned"),
    Table(
        '"An ""odd"" schema"."Bilder & Söhne"',
        '"An ""odd"" schema"."similar_Bilder & Söhne"',
        '"Der Schlüssel"',
        '"Bild"',
        '"Vektor "',
    ),
]
ATTACH = [
    "SELECT visrec.attach('posts', model => 'pixels', show_columns => '{title}')",
    "SELECT visrec.attach('parted', model => 'pixels')",
    "SELECT visrec.attach('shop.owned', model => 'pixels', on_error => 'raise')",
    f"SELECT visrec.attach('{TABLES[3].name}', 'Bild', 'Vektor ', model => 'pixels')",
]
COVERAGE = {"embedded": 6, "pending": 1, "failed": 1, "no_image": 1}
"""Of each of the tables, as furnished."""


def furnish(connection, roots, paths, vectors=None):
    """Make and fill the tables. With ``vectors``, by path, nothing is embedded."""
    connection.execute(
        f"""
        CREATE ROLE {OWNER};
        CREATE ROLE {READER};
        CREATE SCHEMA "An ""odd"" schema";
        CREATE SCHEMA shop;
        GRANT USAGE ON SCHEMA shop TO {OWNER}, {READER};
        GRANT CREATE ON SCHEMA shop TO {OWNER};
        CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, title text);
        CREATE TABLE parted (id integer PRIMARY KEY, image_path text) PARTITION BY RANGE (id);
        CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (4);
        CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (4) TO (MAXVALUE);
        CREATE TABLE shop.owned (id bigint PRIMARY KEY, image_path text);
        ALTER TABLE shop.owned OWNER TO {OWNER};
        CREATE TABLE {TABLES[3].name} ("Der Schlüssel" text PRIMARY KEY, "Bild" varchar(200))"""
    )
    connection.execute("SELECT visrec.set('image_roots', %s)", (":".join(map(str, roots)),))
    connection.execute("SELECT visrec.set('max_image_pixels', '7654321')")
    connection.execute("INSERT INTO visrec.model VALUES ('mine', '/models/mine', 3, 'abc')")
    connection.execute("SELECT visrec.grant_access(%s::text::regrole)", (OWNER,))
    for statement in ATTACH:
        connection.execute(statement)
    connection.execute(
        f"""
        REVOKE ALL ON FUNCTION shop.similar_owned FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION shop.similar_owned TO {READER};
        GRANT SELECT, INSERT ON shop.owned TO {READER}"""
    )
    for table in TABLES:
        row = f"INSERT INTO {table.name} ({table.key}, {table.image}, {table.vector})"
        for key, path in enumerate(paths[:6], start=1):
            vector = vectors and vectors[path]
            connection.execute(f"{row} VALUES (%s, %s, %s)", (str(key), path, vector))
        connection.execute("SET session_replication_role = replica")  # no triggers
        connection.execute(f"{row} VALUES ('7', %s, NULL)", (paths[6],))
        connection.execute(f"{row} VALUES ('8', 'later.jpg', NULL), ('9', NULL, NULL)")
        connection.execute("RESET session_replication_role")
        connection.execute(
            "INSERT INTO visrec.own_failed_row (attachment, row_id, image, code, message, attempts)"
            " SELECT id, '8', 'later.jpg', 'missing', 'no such file', 3 FROM visrec.attachment"
            " WHERE relation = %s::text::regclass",
            (table.name,),
        )
        assert coverage(connection, table) == COVERAGE


def coverage(connection, table):
    counted = "SELECT * FROM visrec.coverage(%s) WHERE rows > 0"
    return dict(connection.execute(counted, (table.name,)).fetchall())


def state(connection):
    """What an upgrade must leave as it is."""
    made = "FROM pg_depend AS d JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass"
    made += " AND d.objid = p.oid AND d.deptype = 'x' ORDER BY 1"
    questions = {
        "attached": "SELECT relation::text, name, key_column, image_column, vector_column, model,"
        " fingerprint, mode, on_error, show_columns, index_method, index_metric, problem"
        " FROM visrec.attached ORDER BY 1",
        "failures": "SELECT relation::text, row_id, image, code, message, attempts, first_try,"
        " last_try FROM visrec.failure ORDER BY 1, 2",
        "settings": "SELECT name, value FROM visrec.setting WHERE value <> default_value",
        "models": "SELECT name, directory, dimension, fingerprint FROM visrec.model ORDER BY 1",
        "made": "SELECT pg_describe_object(classid, objid, 0) FROM pg_depend"
        " WHERE deptype = 'x' ORDER BY 1",
        "functions": f"SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid) {made}",
        "rights": "SELECT p.oid::regprocedure::text, p.proowner::regrole::text,"
        " coalesce(p.proacl, acldefault('f', p.proowner))::text,"
        f" obj_description(p.oid) {made}",
    }
    for table in TABLES:
        questions[f"{table.name}: coverage"] = (
            f"SELECT * FROM visrec.coverage('{table.name}') WHERE rows > 0"
        )
        questions[f"{table.name}: neighbours"] = (
            f"SELECT t.{table.key}::text, s.id::text, round(s.similarity::numeric, 5)"
            f" FROM {table.name} AS t, {table.similar}(t.{table.key}, 3) AS s ORDER BY 1, 3 DESC, 2"
        )
    return {what: connection.execute(query).fetchall() for what, query in questions.items()}


def access(connection):
    """The functions that visrec.grant_access granted to the owner of a table."""
    granted = "SELECT oid::regprocedure::text FROM pg_proc WHERE proacl::text ~ %s"
    return set(connection.execute(granted, (f"[{{,]{OWNER}=X",)).fetchall())


def check_works(connection, table, roots, paths):
    """Inserts, updates, backfill and retry; then every row with an image has its vector."""
    row = f"INSERT INTO {table.name} ({table.key}, {table.image}) VALUES (%s, %s)"
    if table.name == "shop.owned":
        connection.execute(f"SET ROLE {READER}")  # who may insert gets vectors
    connection.execute(row, ("101", paths[10]))
    connection.execute("RESET ROLE")
    change = f"UPDATE {table.name} SET {table.image} = %s WHERE {table.key} = '1'"
    connection.execute(change, (paths[11],))
    wrong = (
        f"SELECT {table.key}::text FROM {table.name} WHERE {table.key} IN ('1', '101') AND"
        f" {table.vector} IS DISTINCT FROM visrec.embed_image({table.image}::text, 'pixels')"
    )
    assert connection.execute(wrong).fetchall() == []
    connection.execute(f"CALL visrec.backfill('{table.name}')")
    assert coverage(connection, table) == {"embedded": 8, "failed": 1, "no_image": 1}
    shutil.copy(roots[0] / paths[12], roots[1] / "later.jpg")
    assert connection.execute(f"SELECT visrec.retry('{table.name}')").fetchone() == (1,)
    (roots[1] / "later.jpg").unlink()
    assert coverage(connection, table) == {"embedded": 9, "no_image": 1}
    search = f"SELECT count(*) FROM {table.similar}('1', %s)"
    assert [connection.execute(search, (k,)).fetchone() for k in (3, 40, 1000)] == [
        (3,),
        (8,),
        (8,),
    ]
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute(search, (0,))


def check_reader(connection):
    """The role that was granted the search of another's table has it, and no other role has."""
    search = "SELECT count(*) FROM shop.similar_owned(1, 3)"
    connection.execute(f"SET ROLE {READER}")
    assert connection.execute(search).fetchone() == (3,)
    connection.execute("RESET ROLE")
    may = "SELECT has_function_privilege('public', p.oid, 'EXECUTE') FROM pg_proc AS p"
    assert connection.execute(f"{may} WHERE p.proname = 'similar_owned'").fetchall() == [(False,)]


def check_detach_and_drop(connection):
    """Tables detached, then the extension dropped: the vectors stay, and nothing else."""
    gone = "SELECT proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
    gone += " WHERE nspname = 'visrec' OR nspname <> 'pg_catalog'"
    gone += " AND proname ~ '^(similar|search|recommend|duplicates|failures)_'"
    gone += " UNION SELECT tgname FROM pg_trigger WHERE tgname ~ '^~?visrec'"
    gone += " UNION SELECT evtname FROM pg_event_trigger"
    gone += " UNION SELECT indexrelid::regclass::text FROM pg_index"
    gone += " WHERE pg_get_indexdef(indexrelid) ~ 'hnsw|_source\"?[[]'"
    for table in TABLES[:2]:
        connection.execute(f"SELECT visrec.detach('{table.name}')")
    left = "SELECT relation::text FROM visrec.attached ORDER BY 1"
    assert len(connection.execute(left).fetchall()) == 2
    connection.execute("DROP EXTENSION visrec")
    assert connection.execute(gone).fetchall() == []
    for table in TABLES:
        held = connection.execute(f"SELECT count({table.vector}) FROM {table.name}").fetchone()
        assert held >= (6,)
