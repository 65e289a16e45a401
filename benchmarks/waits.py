"""What a single session waits for: its first INSERT, a cancel; and the memory it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial

import psycopg

from benchmarks import database
from benchmarks.database import Connection, connect, insert, timed


def first_and_second(paths: Sequence[str]) -> list[tuple[float, float]]:
    """Seconds of the first and second single-row INSERT of new connections, encoder warm."""
    seconds = []
    with connect() as connection:
        database.empty_table(connection)
        insert(connection, paths[:1], first=-1)
        for number in range(0, len(paths) - 1, 2):
            with connect() as new:
                first, second = (
                    timed(partial(insert, new, [paths[at]], at)) for at in (number, number + 1)
                )
            seconds.append((first, second))
    return seconds


def after_restart(cluster: str, path: str, times: int) -> list[float]:
    """Seconds of the first INSERT after the server's start, which starts the encoder."""
    seconds = []
    with connect() as connection:
        database.empty_table(connection)
    for number in range(times):
        database.restart(cluster)
        with connect() as connection:
            seconds.append(timed(partial(insert, connection, [path], number)))
            database.check(connection, number + 1)
    return seconds


def private_memory(path: str, connections: int) -> tuple[list[int], list[int]]:
    """Bytes that so many sessions which have embedded keep for themselves; and others."""
    with connect() as reader:
        database.empty_table(reader)
        reader.execute("CREATE TABLE plain (id bigint PRIMARY KEY, image_path text)")
        found = []
        for table in ("posts", "plain"):
            opened = [connect() for _ in range(connections)]
            for number, each in enumerate(opened):
                insert(each, [path], number, table)
            found.append([_private(reader, each.info.backend_pid) for each in opened])
            for each in opened:
                each.close()
        reader.execute("DROP TABLE plain")
    return found[0], found[1]


def _private(reader: Connection, pid: int) -> int:
    """Read through the server, whose own user may."""
    [[size]] = reader.execute(
        "SELECT sum(m[1]::bigint) * 1024 FROM regexp_matches("
        "pg_read_file('/proc/' || %s || '/smaps_rollup'), '^Private_\\w+: +(\\d+) kB', 'gn') AS m",
        (pid,),
    ).fetchall()
    return int(size)


def cancels(paths: Sequence[str], times: int) -> dict[str, list[float]]:
    """Seconds from the cancel, or the timeout's end, to the statement's end."""
    found: dict[str, list[float]] = {}
    with connect() as connection, connect() as other:
        database.empty_table(connection)
        found["pg_cancel_backend, INSERT of many rows"] = [
            _cancelled(connection, other, paths, 0.3 + 0.037 * number) for number in range(times)
        ]
        found["statement_timeout, INSERT of many rows"] = [
            _timed_out(connection, paths, 300 + 37 * number) for number in range(times)
        ]
        with connect() as busy:
            bulk = threading.Thread(target=_insert_until_cancelled, args=(busy, paths))
            bulk.start()
            found["statement_timeout, a row while another session inserts many"] = [
                _timed_out(connection, paths[:1], 5 + number) for number in range(times)
            ]
            busy.cancel()
            bulk.join()
        loading = found["pg_cancel_backend, while the model loads"] = []
        for number in range(times):
            other.execute("SELECT visrec.encoder_restart()")
            loading.append(_cancelled(connection, other, paths[:1], 0.1 + 0.05 * number))
        other.execute("SELECT visrec.encoder_warm(%s)", (database.MODEL,))
    return found


def _cancelled(
    connection: Connection, other: Connection, paths: Sequence[str], after: float
) -> float:
    sent: list[float] = []

    def cancel() -> None:
        time.sleep(after)
        sent.append(time.perf_counter())
        other.execute("SELECT pg_cancel_backend(%s)", (connection.info.backend_pid,))

    thread = threading.Thread(target=cancel)
    thread.start()
    ended = _end_of_insert(connection, paths)
    thread.join()
    return ended - sent[0]


def _timed_out(connection: Connection, paths: Sequence[str], milliseconds: int) -> float:
    connection.execute("SELECT set_config('statement_timeout', %s, false)", (str(milliseconds),))
    start = time.perf_counter()
    ended = _end_of_insert(connection, paths)
    connection.execute("SET statement_timeout = 0")
    return ended - start - milliseconds / 1000


def _end_of_insert(connection: Connection, paths: Sequence[str]) -> float:
    try:
        insert(connection, paths)
    except psycopg.errors.QueryCanceled:
        return time.perf_counter()
    raise RuntimeError("the INSERT was over before it was cancelled")


def _insert_until_cancelled(connection: Connection, paths: Sequence[str]) -> None:
    try:
        while True:
            with connection.transaction(force_rollback=True):
                insert(connection, paths, first=1 << 40)
    except psycopg.errors.QueryCanceled:
        pass
