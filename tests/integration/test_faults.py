"""Transactions that do not end as meant, killed servers, sessions in each other's way.

`make soak` has the long form of the last two.
"""

import os
import threading
import time

import psycopg
import pytest

from tests.soak import accounts, material
from tests.soak.churn import Churn
from tests.soak.cluster import Cluster
from tests.soak.crashes import WAITING, Killing

from .conftest import coverage, insert
from .test_encoder_process import may_kill  # noqa: F401 - a fixture


def left_over(connection):
    """What there is beside the rows: lines in visrec.failure, and in a queue if there is one."""
    [(failures,)] = connection.execute("SELECT count(*) FROM visrec.failure").fetchall()
    [(queue,)] = connection.execute("SELECT to_regclass('visrec.queue')").fetchall()
    waiting = 0
    if queue is not None:
        [(waiting,)] = connection.execute("SELECT count(*) FROM visrec.queue").fetchall()
    return {"failures": failures, "waiting": waiting}


NOTHING = {"failures": 0, "waiting": 0}


def vectors(connection):
    return dict(connection.execute("SELECT id, content_vector::text FROM posts").fetchall())


def write_some(connection, paths):
    """An INSERT with a bad image, an UPDATE to a good one, and one to another bad one."""
    insert(connection, [paths[1], "nowhere.jpg", paths[2]], 2)
    connection.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[3],))
    connection.execute("UPDATE posts SET image_path = 'gone.jpg' WHERE id = 4")


def test_a_savepoint_rolled_back_leaves_nothing(posts, paths):
    insert(posts, paths[:1])
    before = vectors(posts)
    with posts.transaction():
        with posts.transaction(force_rollback=True):
            write_some(posts, paths)
            assert coverage(posts) == {"embedded": 2, "failed": 2}
        insert(posts, [paths[4]], 9)
    assert coverage(posts) == {"embedded": 2}
    assert left_over(posts) == NOTHING
    assert vectors(posts)[1] == before[1]


def test_a_transaction_rolled_back_leaves_nothing(posts, paths):
    insert(posts, [paths[0], "bad.jpg"], 0)
    before = vectors(posts), posts.execute("SELECT * FROM visrec.failure").fetchall()
    with posts.transaction(force_rollback=True):
        write_some(posts, paths)
        posts.execute("DELETE FROM posts WHERE id = 0")
        assert coverage(posts) == {"embedded": 2, "failed": 2}
    assert (vectors(posts), posts.execute("SELECT * FROM visrec.failure").fetchall()) == before
    assert left_over(posts) == {"failures": 1, "waiting": 0}


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_prepared_transaction(posts, paths, connect, end):
    [(allowed,)] = posts.execute("SHOW max_prepared_transactions").fetchall()
    if allowed == "0":
        pytest.skip("this server prepares no transactions")
    insert(posts, paths[:1])
    before = vectors(posts)
    with connect() as worker:
        write_some(worker, paths)
        worker.execute("PREPARE TRANSACTION 'visrec'")
    try:
        assert vectors(posts) == before
        assert left_over(posts) == NOTHING
    finally:
        posts.execute(f"{end} PREPARED 'visrec'")
    if end == "ROLLBACK":
        assert vectors(posts) == before
        assert left_over(posts) == NOTHING
    else:
        assert coverage(posts) == {"embedded": 2, "failed": 2}
        assert left_over(posts) == {"failures": 2, "waiting": 0}


@pytest.mark.parametrize("caught", [False, True])
def test_an_insert_in_a_trigger_that_fails(posts, paths, caught):
    posts.execute("CREATE TABLE orders (id bigint, image_path text)")
    posts.execute("""
        CREATE FUNCTION pass_on() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO posts (id, image_path) VALUES (NEW.id, NEW.image_path);
            UPDATE posts SET image_path = 'gone.jpg' WHERE id = NEW.id;
            PERFORM 1 / 0;
            RETURN NEW;
        EXCEPTION WHEN division_by_zero THEN
            IF TG_ARGV[0] = 'false' THEN
                RAISE;
            END IF;
            RETURN NEW;
        END
        $$""")
    posts.execute(
        "CREATE TRIGGER pass_on AFTER INSERT ON orders FOR EACH ROW"
        f" EXECUTE FUNCTION pass_on('{str(caught).lower()}')"
    )
    insert_order = "INSERT INTO orders VALUES (1, %s), (2, 'nowhere.jpg')"
    if caught:
        posts.execute(insert_order, (paths[0],))
    else:
        with pytest.raises(psycopg.errors.DivisionByZero):
            posts.execute(insert_order, (paths[0],))
    assert coverage(posts) == {}
    assert left_over(posts) == NOTHING
    insert(posts, paths[:1])
    assert coverage(posts) == {"embedded": 1}


def test_retry_passes_over_a_row_that_is_being_changed(posts, images, paths, pictures, connect):
    """Its vector would be that of the image before."""
    picture = images / "comes-back.jpg"
    insert(posts, [str(picture), str(picture)])
    assert coverage(posts) == {"failed": 2}
    picture.write_bytes((pictures / paths[0]).read_bytes())
    with connect() as other:
        other.execute("UPDATE posts SET image_path = 'gone.jpg' WHERE id = 1")
        retried = threading.Thread(target=posts.execute, args=("SELECT visrec.retry('posts')",))
        retried.start()
        retried.join(1)
    retried.join()
    assert [key for key, vector in vectors(posts).items() if vector is None] == [1]
    assert posts.execute("SELECT row_id, image FROM visrec.failure").fetchall() == [
        ("1", "gone.jpg")
    ]


def test_backfill_is_called_with_parameters(posts, paths):
    """As JDBC and asyncpg call it always, and psycopg where a value is bound."""
    posts.execute("CALL visrec.backfill(%s)", ("posts",))


@pytest.fixture
def churn(posts, images, paths, pictures, connect):
    """For rows with good images, bad ones, none, and one whose file comes and goes."""
    appearing = images / "comes-and-goes.jpg"
    data = (pictures / paths[0]).read_bytes()
    appearing.write_bytes(data)
    codes = {"nowhere.jpg": "missing", "../elsewhere.jpg": "outside_roots"}
    accounts.make(posts)
    accounts.allow_vectors(posts, [*paths[:8], str(appearing)])
    for path, code in {**codes, str(appearing): "missing"}.items():
        accounts.allow_failures(posts, path, [code])
    return Churn(
        lambda: connect(autocommit=True),
        "posts",
        [*paths[:8], *codes, None, *[str(appearing)] * 3],
        seed=1,
        appearing=(appearing, data),
    )


@pytest.mark.parametrize("sessions", [8, 32])
def test_sessions_on_the_same_rows(posts, churn, sessions):
    """No deadlock, coverage right at every moment, and every row accounted for."""
    churn.run(sessions, samples=100, seconds=3)
    assert churn.statements.lost == []
    assert churn.samples.lost == []
    assert churn.samples.tried >= 100
    assert churn.statements.tried > 10 * sessions
    assert accounts.faults(posts, "posts") == []
    posts.execute("DELETE FROM allowed WHERE vector IS NULL AND path LIKE '%comes-and-goes.jpg'")
    assert accounts.heal(posts, "posts") == []


@pytest.fixture
def own_cluster(db):
    """A cluster that may be killed."""
    cluster = Cluster.start(f"faults-{os.getpid()}")
    yield cluster
    cluster.remove()


@pytest.mark.usefixtures("may_kill")
def test_a_server_killed_in_the_middle_of_inserts(own_cluster):
    """What was committed is there, nothing else, and all of it accounted for."""
    drawn = material.draw(own_cluster.shared / "pictures", count=12)
    with own_cluster.connect() as connection:
        material.prepare(connection, drawn)
    killing = Killing(own_cluster, drawn, seed=1)
    started = time.monotonic()
    killing.round(WAITING, longest=1.0)
    took = time.monotonic() - started
    assert killing.lines[WAITING].lost == []
    assert killing.rows.tried > 0
    assert took < 15
