"""A database with the extension, cloned for each test, on the cluster that `make test` started."""

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from pytest_postgresql import factories

import draw_pictures
from tests.servers import client

if "VISREC_SHARED_DIR" in os.environ:
    postgresql_noproc = factories.postgresql_noproc(
        host=os.environ["PGHOST"],
        port=os.environ["PGPORT"],
        user=os.environ["PGUSER"],
        password=Path(os.environ["PGPASSFILE"]).read_text().rstrip("\n").rsplit(":", 1)[1],
        load=[Path(__file__).parent / "database.sql"],
    )
    postgresql = factories.postgresql("postgresql_noproc")
else:

    @pytest.fixture
    def postgresql():
        pytest.skip("needs the cluster of `make test`")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of tests with many cases the everyday run takes every n-th: ``@pytest.mark.one_in(n)``."""
    seen = Counter()
    for item in items:
        if thinned := item.get_closest_marker("one_in"):
            if seen[item.function] % thinned.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[item.function] += 1


@pytest.fixture(scope="session")
def shared():
    """A directory that the tests write and the server's user reads."""
    if "VISREC_SHARED_DIR" not in os.environ:
        pytest.skip("needs the cluster of `make test`")
    return Path(os.environ["VISREC_SHARED_DIR"])


@pytest.fixture(scope="session")
def pictures(shared):
    """A directory of 48 drawn pictures; the tests treat it as read-only."""
    directory = shared / "pictures"
    draw_pictures.draw_all(directory, count=48)
    return directory


@pytest.fixture
def images(shared, request):
    """An empty directory for one test, inside the image roots."""
    directory = shared / "images" / f"{request.node.name}-{random.randrange(1 << 32):x}"
    directory.mkdir(parents=True)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def db(postgresql, pictures, shared):
    """An autocommit connection; ``pictures`` and ``images`` are in the image roots."""
    postgresql.autocommit = True
    postgresql.execute("SELECT visrec.set('image_roots', %s)", (f"{pictures}:{shared / 'images'}",))
    return postgresql


@pytest.fixture
def posts(db):
    """An empty attached table ``posts``."""
    db.execute(
        "CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, title text, category text)"
    )
    db.execute("SELECT visrec.attach('posts', model => 'pixels')")
    return db


@pytest.fixture
def connect(db):
    """Opens further connections to the test's database."""
    opened = []

    def open_one(**options):
        opened.append(psycopg.connect(db.info.dsn, password=db.info.password, **options))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def restore(db):
    """Dumps the test's database with options, and restores it into one named ``restored``."""
    opened = []

    def work(*options):
        dump = client("pg_dump", *options, database=db.info.dbname, silent=True)
        db.execute("DROP DATABASE IF EXISTS restored")
        db.execute("CREATE DATABASE restored TEMPLATE template0")
        load = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        client(*load, database="restored", text=dump, silent=True)
        opened.append(
            psycopg.connect(
                db.info.dsn, dbname="restored", password=db.info.password, autocommit=True
            )
        )
        return opened[-1]

    yield work
    for connection in opened:
        connection.close()
    db.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")


@pytest.fixture
def paths(pictures):
    """The drawn pictures' paths, relative to their root."""
    return sorted(str(path.relative_to(pictures)) for path in pictures.glob("*/*.jpg"))


def insert(connection, paths, first=1):
    """One INSERT of a row for each path."""
    connection.execute(
        "INSERT INTO posts (id, image_path, category)"
        " SELECT %s - 1 + n, path, split_part(path, '/', 1)"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS p (path, n)",
        (first, list(paths)),
    )


def coverage(connection, table="posts"):
    """The states with at least one row, as a dictionary."""
    rows = connection.execute("SELECT * FROM visrec.coverage(%s) WHERE rows > 0", (table,))
    return dict(rows.fetchall())


def waits(connection, other):
    """Whether another connection waits for a lock; in a transaction, as when first asked."""
    (event,) = connection.execute(
        "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", (other.info.backend_pid,)
    ).fetchone()
    return event == "Lock"


def notices(connection):
    """A list that grows with the connection's notices: (severity, message, hint)."""
    heard = []
    connection.add_notice_handler(
        lambda notice: heard.append((notice.severity, notice.message_primary, notice.message_hint))
    )
    return heard
