"""The encoder process under a real server: sessions, cancels, kills."""

import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest

from .conftest import coverage, insert, notices


def encoder_pid(connection):
    row = connection.execute("SELECT pid FROM visrec.encoder_status()").fetchone()
    return row and row[0]


def in_threads(count, work):
    """Run ``work(number)`` in threads; what they raised."""
    raised = []

    def safely(number):
        try:
            work(number)
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=safely, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.fixture
def may_kill(db):
    """Skips where the tests' user may not signal the server's processes."""
    if os.getuid() != 0 and db.execute("SELECT pg_backend_pid()").fetchone():
        [(pid,)] = db.execute("SELECT pg_backend_pid()").fetchall()
        if Path(f"/proc/{pid}").stat().st_uid != os.getuid():
            pytest.skip("may not signal the server's processes")


def test_many_first_calls_start_one_process(posts, paths, connect):
    posts.execute("SELECT visrec.encoder_restart()")
    assert encoder_pid(posts) is None
    connections = [connect(autocommit=True) for _ in range(30)]
    assert in_threads(30, lambda n: insert(connections[n], [paths[n]], n)) == []
    assert coverage(posts) == {"embedded": 30}
    pids = {encoder_pid(connection) for connection in connections}
    assert len(pids) == 1


def test_status_says_what_runs(posts, paths):
    insert(posts, paths[:3])
    [row] = posts.execute(
        "SELECT model, runtime, device, images >= 3, waiting FROM visrec.encoder_status()"
        " WHERE model = 'pixels'"
    ).fetchall()
    assert row == ("pixels", "numpy", "cpu", True, 0)


def test_warm_loads_the_model(posts):
    posts.execute("SELECT visrec.encoder_restart()")
    posts.execute("SELECT visrec.encoder_warm('pixels')")
    [(model,)] = posts.execute("SELECT model FROM visrec.encoder_status()").fetchall()
    assert model == "pixels"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        posts.execute("SELECT visrec.encoder_warm('nobody-knows-it')")


def test_in_process_needs_no_process(posts, paths):
    posts.execute("SELECT visrec.encoder_restart()")
    posts.execute("SELECT visrec.set('encoder', 'in_process')")
    insert(posts, paths[:20])
    assert coverage(posts) == {"embedded": 20}
    assert encoder_pid(posts) is None


def test_both_ways_give_the_same_vectors(posts, paths, connect):
    insert(posts, paths[:10])
    posts.execute("SELECT visrec.set('encoder', 'in_process')")
    insert(posts, paths[:10], 101)
    [(different,)] = posts.execute(
        "SELECT count(*) FROM posts AS a JOIN posts AS b USING (image_path)"
        " WHERE a.content_vector <> b.content_vector"
    ).fetchall()
    assert different == 0


@pytest.mark.usefixtures("may_kill")
@pytest.mark.parametrize("how", ["statement_timeout", "pg_cancel_backend"])
def test_a_cancel_takes_effect_at_once(posts, paths, connect, how):
    insert(posts, paths[:1])
    worker = connect(autocommit=True)
    insert(worker, paths[1:2], 2)
    encoder = encoder_pid(posts)
    os.kill(encoder, signal.SIGSTOP)  # an embedding that takes for ever
    try:
        started = time.monotonic()
        if how == "statement_timeout":
            worker.execute("SET statement_timeout = '300ms'")
        else:
            canceller = threading.Timer(
                0.3,
                lambda: posts.execute("SELECT pg_cancel_backend(%s)", (worker.info.backend_pid,)),
            )
            canceller.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            insert(worker, paths[2:3], 3)
        assert time.monotonic() - started < 0.3 + 0.25
    finally:
        os.kill(encoder, signal.SIGCONT)
    worker.execute("RESET statement_timeout")
    insert(worker, paths[3:4], 4)
    assert coverage(posts) == {"embedded": 3}


@pytest.mark.usefixtures("may_kill")
def test_kills_under_inserting_sessions(posts, paths, connect):
    """No row is lost, none has a wrong vector, none hangs."""
    kill_under_load(posts, paths, connect, kills=8)


@pytest.mark.slow
@pytest.mark.usefixtures("may_kill")
def test_fifty_kills_under_inserting_sessions(posts, paths, connect):
    kill_under_load(posts, paths, connect, kills=50)


def kill_under_load(posts, paths, connect, kills):
    insert(posts, paths, 1_000_001)  # what each path's vector should be
    stop = threading.Event()
    written = [0] * 8
    slowest = [0.0] * 8
    connections = [connect(autocommit=True) for _ in range(8)]

    def write(number):
        connections[number].execute("SET statement_timeout = '60s'")
        while not stop.is_set():
            started = time.monotonic()
            insert(connections[number], [random.choice(paths)], number * 100_000 + written[number])
            written[number] += 1
            slowest[number] = max(slowest[number], time.monotonic() - started)

    def kill():
        for _ in range(kills):
            time.sleep(random.uniform(0.05, 0.6))
            pid = encoder_pid(posts)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
        stop.set()

    killer = threading.Thread(target=kill)
    killer.start()
    assert in_threads(8, write) == []
    killer.join()
    assert posts.execute("SELECT count(*) FROM posts WHERE id < 1000000").fetchone() == (
        sum(written),
    )
    states = coverage(posts)
    assert states["embedded"] + states.get("failed", 0) == sum(written) + len(paths)
    [(wrong,)] = posts.execute(
        "SELECT count(*) FROM posts AS a JOIN posts AS b ON b.image_path = a.image_path"
        " WHERE a.id < 1000000 AND b.id > 1000000 AND a.content_vector <> b.content_vector"
    ).fetchall()
    assert wrong == 0
    assert max(slowest) < 30
    posts.execute("SELECT visrec.retry('posts')")
    assert coverage(posts) == {"embedded": sum(written) + len(paths)}


@pytest.mark.usefixtures("may_kill")
def test_no_orphan_after_the_postmaster_is_killed(shared, pictures, paths):
    """A cluster of its own, since it is killed."""
    script = str(Path(__file__).parents[2] / "scripts" / "cluster.sh")
    name = f"kill-{os.getpid()}"
    subprocess.run([script, "start", name, "--throwaway"], check=True)
    try:
        settings = dict(
            line.removeprefix("export ").split("=", 1)
            for line in subprocess.run(
                [script, "env", name], capture_output=True, text=True, check=True
            ).stdout.splitlines()
        )
        with psycopg.connect(
            host=settings["PGHOST"],
            port=settings["PGPORT"],
            user="postgres",
            passfile=settings["PGPASSFILE"],
            autocommit=True,
        ) as connection:
            connection.execute("CREATE EXTENSION visrec CASCADE")
            connection.execute("SELECT visrec.set('image_roots', %s)", (str(pictures),))
            connection.execute("SELECT visrec.embed_image(%s::text, 'pixels')", (paths[0],))
            encoder = encoder_pid(connection)
            [(postmaster,)] = connection.execute(
                "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int"
            ).fetchall()
        os.kill(postmaster, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while Path(f"/proc/{encoder}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        subprocess.run([script, "stop", name, "--remove"], check=True)


def test_a_session_falls_back_with_one_warning(posts, paths, connect):
    """Where the process cannot be started: here, since its lock file is a directory."""
    posts.execute("SELECT visrec.encoder_warm('pixels')")  # it has been started once
    posts.execute("SELECT visrec.encoder_restart()")
    directory = "pg_stat_tmp/visrec.starting"
    posts.execute(f"DO LANGUAGE plpython3u $$ import os; os.remove('{directory}') $$")
    posts.execute(f"DO LANGUAGE plpython3u $$ import os; os.mkdir('{directory}') $$")
    try:
        heard = notices(posts)
        insert(posts, paths[:2])
        insert(posts, paths[2:3], 10)
        assert coverage(posts) == {"embedded": 3}
        assert [severity for severity, _, _ in heard] == ["WARNING"]
        posts.execute("SELECT visrec.set('encoder', 'shared')")
        insert(posts, paths[3:4], 20)
        assert coverage(posts) == {"embedded": 3, "failed": 1}
    finally:
        posts.execute(f"DO LANGUAGE plpython3u $$ import os; os.rmdir('{directory}') $$")
