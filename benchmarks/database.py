"""The database side: the cluster, the tables, and how fast rows get their vectors."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from benchmarks.material import Pictures

Connection = psycopg.Connection[tuple[Any, ...]]

MODEL = "bench"
TABLE = "CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, title text)"
SCRIPT = Path(__file__).parents[1] / "scripts" / "cluster.sh"


def connect() -> Connection:
    """To the cluster that the environment names, each statement a transaction."""
    return psycopg.connect(autocommit=True)


@contextmanager
def scratch(name: str) -> Iterator[Connection]:
    """A new database with the extension, and memory to build indexes in; dropped afterwards."""
    with connect() as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
        with psycopg.connect(dbname=name, autocommit=True) as own:
            own.execute("SET client_min_messages = warning")
            own.execute("SET maintenance_work_mem = '1GB'")
            own.execute("CREATE EXTENSION visrec CASCADE")
            yield own
        connection.execute(f"DROP DATABASE {name}".encode())


def restart(cluster: str) -> None:
    """Stop and start the cluster; it may come back on another port."""
    for action in ("stop", "start"):
        subprocess.run([SCRIPT, action, cluster], check=True)
    told = subprocess.run([SCRIPT, "env", cluster], check=True, capture_output=True, text=True)
    [port] = re.findall(r"PGPORT=(\d+)", told.stdout)
    os.environ["PGPORT"] = port


def prepare(connection: Connection, model: Path, pictures: Pictures) -> None:
    """The extension, its settings, and the model. No silent way around the encoder process."""
    connection.execute("SET client_min_messages = warning")
    connection.execute("CREATE EXTENSION visrec CASCADE")
    connection.execute("SELECT visrec.set('image_roots', %s)", (str(pictures.root),))
    connection.execute("SELECT visrec.set('encoder', 'shared')")
    connection.execute("SELECT visrec.register_model(%s, %s)", (MODEL, str(model)))


def empty_table(connection: Connection) -> None:
    """A new attached table ``posts``."""
    drop_table(connection)
    connection.execute(TABLE)
    connection.execute("SELECT visrec.attach('posts', model => %s)", (MODEL,))


def drop_table(connection: Connection) -> None:
    known = connection.execute("SELECT to_regclass('posts')").fetchone()
    if known != (None,):
        connection.execute("SELECT visrec.detach('posts')")
        connection.execute("DROP TABLE posts")


def insert(
    connection: Connection, paths: Sequence[str], first: int = 0, table: LiteralString = "posts"
) -> None:
    """One INSERT with a row for each path."""
    connection.execute(
        f"INSERT INTO {table} (id, image_path)"  # noqa: S608 - one of two constants
        " SELECT %s - 1 + n, path FROM unnest(%s::text[]) WITH ORDINALITY AS p (path, n)",
        (first, list(paths)),
    )


def backfill(connection: Connection, paths: Sequence[str], model: str = MODEL) -> float:
    """Seconds of a backfill of a table that had its rows before it was attached."""
    drop_table(connection)
    connection.execute(TABLE)
    insert(connection, paths)
    connection.execute("SELECT visrec.attach('posts', model => %s)", (model,))
    seconds = timed(partial(connection.execute, "CALL visrec.backfill('posts')"))
    check(connection, len(paths))
    return seconds


def insert_together(connection: Connection, paths: Sequence[str]) -> float:
    """Seconds of one INSERT of all rows."""
    empty_table(connection)
    seconds = timed(partial(insert, connection, paths))
    check(connection, len(paths))
    return seconds


def insert_singly(connection: Connection, paths: Sequence[str]) -> list[float]:
    """Seconds of each of the INSERTs of one row."""
    empty_table(connection)
    insert(connection, paths[:1], first=-1)
    seconds = [
        timed(partial(insert, connection, [path], number)) for number, path in enumerate(paths)
    ]
    check(connection, len(paths) + 1)
    return seconds


def insert_from(sessions: int, connection: Connection, paths: Sequence[str]) -> float:
    """Seconds until so many sessions have inserted all rows, each a row at a time."""
    empty_table(connection)
    connections = [connect() for _ in range(sessions)]
    for number, each in enumerate(connections):
        insert(each, paths[:1], first=-1 - number)
    failed: list[psycopg.Error] = []

    def work(number: int) -> None:
        try:
            for row in range(number, len(paths), sessions):
                insert(connections[number], [paths[row]], row)
        except psycopg.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(sessions)]
    seconds = timed(lambda: [*map(threading.Thread.start, threads), *map(_join, threads)])
    for each in connections:
        each.close()
    if failed:
        raise failed[0]
    check(connection, len(paths) + sessions)
    return seconds


def check(connection: Connection, rows: int) -> None:
    """Every row has its vector, or the figures mean nothing."""
    found = connection.execute("SELECT count(content_vector) FROM posts").fetchone()
    if found != (rows,):
        raise RuntimeError(f"{found} of {rows} rows have a vector")


def timed(work: Callable[[], object]) -> float:
    """Its seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _join(thread: threading.Thread) -> None:
    thread.join()
