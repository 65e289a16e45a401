"""ALTER EXTENSION visrec UPDATE, from each released version to this one."""

import difflib
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.servers import client

from .furnished import (
    ATTACH,
    OWNER,
    TABLES,
    access,
    check_detach_and_drop,
    check_reader,
    check_works,
    furnish,
    state,
)

MEMBERS = Path(__file__).with_name("members.sql").read_text()
KNOWN = {"pg_namespace", "pg_class", "pg_type", "pg_proc", "pg_event_trigger"}
"""The kinds of members that members.sql describes."""

CURRENT = re.search(
    r"^default_version = '(.+)'",
    (REPOSITORY / "extension/visrec.control").read_text(),
    re.MULTILINE,
)[1]
SCRIPTS = [path.stem.split("--") for path in (REPOSITORY / "extension").glob("visrec--*.sql")]
RELEASED = sorted(versions[0] for _, *versions in SCRIPTS if len(versions) == 1)
EARLIER = [version for version in RELEASED if version != CURRENT]
NONE = pytest.mark.skip(reason="extension/ has no install script of an earlier version yet")


@pytest.fixture(params=EARLIER or [pytest.param(None, id="none", marks=NONE)])
def released(request, database):
    """A database with the extension as an earlier version made it."""
    return database(request.param)


@pytest.fixture
def furnished(released, database, roots, paths):
    """Such a database in full use. Its vectors are given, since its Python package is gone."""
    current = database()
    current.execute("SELECT visrec.set('image_roots', %s)", (str(roots[0]),))
    vectors = "SELECT p, visrec.embed_image(p, 'pixels')::text FROM unnest(%s::text[]) AS p"
    furnish(released, roots, paths, dict(current.execute(vectors, (paths[:6],)).fetchall()))
    return released


def update(connection):
    connection.execute("ALTER EXTENSION visrec UPDATE")


def description(connection):
    """A line for each line of each property of the extension's members, and for each row."""
    kinds = connection.execute(
        "SELECT DISTINCT d.classid::regclass::text FROM pg_depend AS d JOIN pg_extension AS e"
        " ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid"
        " WHERE e.extname = 'visrec' AND d.deptype = 'e'"
    ).fetchall()
    assert {kind for (kind,) in kinds} <= KNOWN
    found = connection.execute(MEMBERS).fetchall()
    for member in sorted({member for member, _, _ in found if member.startswith("table ")}):
        rows = connection.execute(f"SELECT to_jsonb(t)::text FROM {member[6:]} AS t ORDER BY 1")
        found += [(member, "row", row) for (row,) in rows]
    return [
        f"{member}: {aspect}: {line}"
        for member, aspect, value in found
        for line in (value or "none").splitlines() or [""]
    ]


def test_an_upgraded_extension_is_a_fresh_one(released, database):
    update(released)
    fresh, upgraded = description(database()), description(released)
    different = "\n".join(
        difflib.unified_diff(fresh, upgraded, "fresh", "upgraded", n=0, lineterm="")
    )
    assert not different, f"the upgrade script makes something else:\n{different}"


def test_any_difference_is_seen(database):
    connection = database()
    fresh = description(connection)
    for change in (
        "ALTER FUNCTION visrec._owns VOLATILE",
        "ALTER FUNCTION visrec._owns RESET ALL",
        "ALTER FUNCTION visrec._owns OWNER TO pg_monitor",
        "GRANT EXECUTE ON FUNCTION visrec.set TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION visrec._owns FROM PUBLIC",
        "REVOKE USAGE ON SCHEMA visrec FROM PUBLIC",
        "COMMENT ON FUNCTION visrec.set IS 'another'",
        "COMMENT ON COLUMN visrec.failure.code IS 'another'",
        "COMMENT ON TABLE visrec.failed_row IS NULL",
        "ALTER TABLE visrec.failed_row ALTER attempts SET DEFAULT 2",
        "ALTER TABLE visrec.failed_row ADD CHECK (attempts > 0)",
        "ALTER TABLE visrec.attachment ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE visrec.attachment DISABLE TRIGGER a_check",
        "ALTER VIEW visrec.own_attachment RESET (security_barrier)",
        "GRANT INSERT ON visrec.attachment TO PUBLIC",
        "ALTER SEQUENCE visrec.attachment_id INCREMENT 2",
        "ALTER TYPE visrec._names ADD ATTRIBUTE another text",
        "COMMENT ON TYPE visrec._names IS NULL",
        "ALTER EVENT TRIGGER visrec_forget_dropped DISABLE",
        "CREATE OR REPLACE VIEW visrec.setting AS SELECT name, value, value AS default_value,"
        " value AS description FROM visrec.setting_value",
        "UPDATE visrec.model SET dimension = 3",
        "ALTER EXTENSION visrec DROP FUNCTION visrec.set",
        "UPDATE pg_extension SET extcondition[1] = 'WHERE true' WHERE extname = 'visrec'",
    ):
        with connection.transaction(force_rollback=True):
            connection.execute(change)
            assert description(connection) != fresh, change


@pytest.mark.parametrize("again", [False, True], ids=["as attached", "attached again"])
def test_attached_tables_live_on(furnished, again, roots, paths):
    before, allowed = state(furnished), access(furnished)
    update(furnished)
    assert state(furnished) == before
    assert access(furnished) >= allowed
    if again:
        for statement in ATTACH:
            furnished.execute(statement)
    check_reader(furnished)
    for table in TABLES:
        check_works(furnished, table, roots, paths)
    check_reader(furnished)
    check_detach_and_drop(furnished)


def test_a_dump_of_an_earlier_version(furnished, database, roots, paths):
    """pg_dump names no version: a dump is restored with this one, and no upgrade script runs."""
    restored = database(empty=True)
    dump = client("pg_dump", database=furnished.info.dbname)
    load = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    client(*load, database=restored.info.dbname, text=dump)
    assert state(restored) == state(furnished)
    assert access(restored) >= access(furnished)
    check_reader(restored)
    for table in TABLES:
        check_works(restored, table, roots, paths)
    check_detach_and_drop(restored)


def test_rights_given_before_are_dumped(furnished):
    """A GRANT in an upgrade script would make users' grants look like the extension's own."""
    update(furnished)
    own = f"SELECT FROM pg_init_privs WHERE initprivs::text ~ '{OWNER}'"
    assert furnished.execute(own).rowcount == 0


def test_a_database_not_yet_updated_works(released, roots, paths):
    """From `make install` until ALTER EXTENSION, old SQL calls the new Python package."""
    released.execute("SELECT visrec.set('image_roots', %s)", (str(roots[0]),))
    released.execute("CREATE TABLE posts (id bigint PRIMARY KEY, image_path text)")
    released.execute("SELECT visrec.attach('posts', model => 'pixels')")
    released.execute("INSERT INTO posts VALUES (1, %s), (2, %s)", (paths[0], paths[1]))
    released.execute("UPDATE posts SET image_path = %s WHERE id = 2", (paths[2],))
    released.execute("CALL visrec.backfill('posts')")
    [(similar,)] = released.execute("SELECT count(*) FROM similar_posts(1)").fetchall()
    assert similar == 1
