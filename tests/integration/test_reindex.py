"""visrec.reindex in a second session: writers go on, the swap is whole, nothing is left behind."""

import threading

import psycopg
import pytest

from .conftest import notices
from .test_tune import fill, items  # noqa: F401 - a fixture

INDEXES = (
    "SELECT c.relname, x.indisvalid, c.reloptions, EXISTS (SELECT FROM pg_depend AS d WHERE"
    " d.objid = c.oid AND d.deptype = 'x') FROM pg_index AS x JOIN pg_class AS c"
    " ON c.oid = x.indexrelid JOIN pg_am AS m ON m.oid = c.relam"
    " WHERE x.indrelid = 'items'::regclass AND m.amname IN ('hnsw', 'ivfflat')"
)
BEFORE = [("items_content_vector_idx", True, ["m=4", "ef_construction=16"], True)]
AFTER = [("items_content_vector_idx", True, ["m=8", "ef_construction=32"], True)]
REINDEX = "CALL visrec.reindex('items', 'hnsw', m => 8, ef_construction => 32, connection => %s)"


@pytest.fixture
def second(items):  # noqa: F811
    """How dblink gets to the test's database."""
    items.execute("CREATE EXTENSION dblink")
    info = items.info  # its dsn has words that the server's older libpq may not know
    return (
        f"host={info.host} port={info.port} dbname={info.dbname} user={info.user}"
        f" password={info.password}"
    )


class Call(threading.Thread):
    """The procedure in a session of its own; ``error`` is how it ended."""

    def __init__(self, connection, second):
        super().__init__(daemon=True)
        self.connection, self.second, self.error = connection, second, None
        self.start()

    def run(self):
        try:
            self.connection.execute(REINDEX, (self.second,))
        except psycopg.Error as error:
            self.error = error


@pytest.fixture
def waiting(items, second, connect):  # noqa: F811
    """A call that waits for the session that is returned with it: that has written to the table."""
    writer = connect()
    writer.execute("UPDATE items SET image_path = NULL WHERE id = 1")
    call = Call(connect(autocommit=True), second)
    waits = (
        "SELECT phase FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'"
    )
    while not items.execute(waits).fetchall():
        assert call.is_alive(), call.error
        items.execute("SELECT pg_sleep(0.05)")
    return call, writer


def test_writers_go_on_while_it_builds(items, waiting):  # noqa: F811
    call, writer = waiting
    items.execute("SET lock_timeout = '20s'")
    items.execute(
        "INSERT INTO items (id, content_vector) SELECT 0, content_vector FROM items WHERE id = 7"
    )
    writer.commit()
    call.join(60)
    assert not call.is_alive()
    assert call.error is None
    assert items.execute(INDEXES).fetchall() == AFTER
    assert items.execute("SELECT id FROM similar_items(0, 1)").fetchone() == (7,)
    [(width,)] = items.execute("SELECT width FROM visrec.attached").fetchall()
    assert width  # it ended with tune


def test_cancelled_it_leaves_nothing(items, waiting):  # noqa: F811
    call, writer = waiting
    call.connection.cancel()
    writer.commit()
    call.join(60)
    assert isinstance(call.error, psycopg.errors.QueryCanceled)
    assert call.error.diag.message_detail is not None, call.error
    assert items.execute(INDEXES).fetchall() == BEFORE
    call.connection.execute(REINDEX, (call.second,))
    assert items.execute(INDEXES).fetchall() == AFTER


def test_a_killed_session_leaves_what_selftest_names_and_the_next_call_removes(items, waiting):  # noqa: F811
    call, writer = waiting
    [(pid,)] = items.execute("SELECT pid FROM pg_stat_progress_create_index").fetchall()
    items.execute("SELECT pg_terminate_backend(%s)", (call.connection.info.backend_pid,))
    call.join(60)
    alive = "SELECT FROM pg_stat_activity WHERE pid = %s"
    while items.execute(alive, (pid,)).fetchall():  # it notices by itself
        items.execute("SELECT pg_sleep(0.1)")
    writer.commit()
    [number] = items.execute("SELECT id FROM visrec.attachment").fetchone()
    left = f"public.visrec_{number}_new"
    rows = items.execute(
        'SELECT ok, result, advice FROM visrec.selftest() WHERE "check" = %s', (f"index {left}",)
    )
    assert rows.fetchall() == [
        (
            False,
            "left by a reindex of public.items that did not end",
            f"DROP INDEX CONCURRENTLY {left};",
        )
    ]
    assert len(items.execute("SELECT * FROM similar_items(1)").fetchall()) == 10
    items.execute(REINDEX, (call.second,))
    assert items.execute(INDEXES).fetchall() == AFTER


def test_another_method(items, second):  # noqa: F811
    items.execute("CALL visrec.reindex('items', 'hnsw_half', connection => %s)", (second,))
    assert items.execute(INDEXES).fetchall() == [("items_content_vector_idx", True, None, True)]
    assert len(items.execute("SELECT * FROM similar_items(1)").fetchall()) == 10
    assert items.execute("SELECT index_method FROM visrec.attached").fetchone() == ("hnsw_half",)


def test_a_session_of_another_database_is_not_taken(items, second):  # noqa: F811
    elsewhere = f"{second} dbname=postgres"
    with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection) as raised:
        items.execute("CALL visrec.reindex('items', connection => %s)", (elsewhere,))
    assert raised.value.diag.message_detail == "The second session is not of this database."
    assert items.execute(INDEXES).fetchall() == BEFORE


def test_without_a_second_session_writers_are_told_to_wait(items):  # noqa: F811
    heard = notices(items)
    items.execute("CALL visrec.reindex('items', m => 8, ef_construction => 32)")
    assert heard[0] == (
        "NOTICE",
        'writers of table "public.items" wait until its index is built',
        "CREATE EXTENSION dblink; CALL visrec.reindex('public.items', 'hnsw', m => 8,"
        " ef_construction => 32, connection => '…');",
    )
    assert items.execute(INDEXES).fetchall() == AFTER


def test_inside_a_transaction_block(items, second):  # noqa: F811
    with (
        pytest.raises(psycopg.errors.InvalidTransactionTermination),
        items.transaction(),
    ):
        items.execute(REINDEX, (second,))
    with items.transaction():
        items.execute("CALL visrec.reindex('items', m => 8, ef_construction => 32)")
        raised = items.execute(INDEXES).fetchall()
    assert raised == items.execute(INDEXES).fetchall() == AFTER


def test_others_than_superusers_need_a_password(items, second, connect):  # noqa: F811
    """Nobody gets in as the server's own user."""
    items.execute("DROP ROLE IF EXISTS visrec_plain")
    items.execute("CREATE ROLE visrec_plain LOGIN PASSWORD 'plain'")
    items.execute("ALTER TABLE items OWNER TO visrec_plain")
    items.execute("SELECT visrec.grant_access('visrec_plain'); SELECT visrec.attach('items')")
    try:
        items.execute("GRANT CREATE ON SCHEMA public TO visrec_plain")
        with connect(autocommit=True) as session:
            session.execute("SET SESSION AUTHORIZATION visrec_plain")
            [(refused, own)] = session.execute(
                "SELECT visrec._open_session('items', 'dbname=tests'), visrec._own_connection()"
            ).fetchall()
            assert "password" in refused
            assert own is None
            theirs = f"{second} user=visrec_plain password=plain"
            session.execute(REINDEX, (theirs,))
        assert items.execute(INDEXES).fetchall() == AFTER
    finally:
        items.execute("DROP TABLE items")
        items.execute("SELECT visrec.revoke_access('visrec_plain')")
        items.execute("DROP OWNED BY visrec_plain; DROP ROLE visrec_plain")
