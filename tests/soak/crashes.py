"""Kill and recover: whoever is killed, each committed row comes back and is accounted for."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

import psycopg

from tests.soak import accounts
from tests.soak.cluster import Cluster, Connection, encoder_pid, gone, kill, lost, number
from tests.soak.ledger import Writer
from tests.soak.material import Pictures
from tests.soak.report import Line
from tests.soak.threads import Threads

POSTMASTER, WAITING = "the postmaster", "the postmaster, while statements wait"
ENCODER, BACKEND = "the encoder process", "a backend"
VICTIMS = [POSTMASTER, ENCODER, WAITING, BACKEND]

ARCHIVED = 150
"""Rows that wait for the backfill, more in each round."""


class Killing:
    """Writers of one table, a backfill of another, and a kill in each round."""

    def __init__(self, cluster: Cluster, pictures: Pictures, seed: int, writers: int = 5) -> None:
        self._cluster = cluster
        self._rng = random.Random(f"{seed}/crashes")
        self._images: list[str | None] = [*pictures.paths, *pictures.good, None]
        self._writers = [
            Writer("killed", place, self._images, f"{seed}/{place}") for place in range(writers)
        ]
        self._archived = 0
        self.lines = {victim: Line(f"kill -9 of {victim}") for victim in dict.fromkeys(VICTIMS)}
        self.rows = Line("rows after a kill: as committed, and accounted for")
        self.backfills = Line("rows of a backfill that went on after the kill")
        with cluster.connect() as connection:
            for table in ("killed", "archive"):
                connection.execute(f"DROP TABLE IF EXISTS {table}".encode())
                connection.execute(
                    f"CREATE TABLE {table} (id bigint PRIMARY KEY, image_path text)".encode()
                )
                connection.execute("SELECT visrec.attach(%s, model => 'pixels')", (table,))

    def round(self, victim: str, longest: float = 3.0) -> None:
        """Write, kill, recover, look, go on."""
        self._fill_archive()
        threads = Threads()
        connections = [self._cluster.connect() for _ in range(len(self._writers) + 1)]
        for writer, connection in zip(self._writers, connections, strict=False):
            threads.start(partial(self._write, writer, connection, threads))
        threads.start(partial(self._backfill, connections[-1], threads))
        time.sleep(self._rng.uniform(0.3, longest))
        postmaster = self._cluster.postmaster()
        wrong = self._kill(victim, postmaster, self._rng.choice(connections))
        if victim == ENCODER:
            time.sleep(1)
        left = threads.join()
        if left:
            wrong.append(f"{left} statements did not end")
        if victim in (POSTMASTER, WAITING):
            self._cluster.restart(postmaster)
        self._cluster.wait()
        wrong += [f"an unexpected error: {error!r}" for error in threads.raised]
        for connection in connections:
            connection.close()
        line = self.lines[victim]
        line.tried += 1
        wrong += self._look()
        if wrong:
            line.lost.append("; ".join(wrong[:3]))

    def _write(self, writer: Writer, connection: Connection, threads: Threads) -> None:
        while not threads.stop.is_set() and writer.write(connection):
            pass

    def _backfill(self, connection: Connection, threads: Threads) -> None:
        while not threads.stop.is_set():
            try:
                accounts.backfill(connection, "archive", 8)
            except psycopg.Error:
                if not lost(connection):
                    raise
                return
            time.sleep(0.2)

    def _fill_archive(self) -> None:
        """Rows that are inserted while triggers are off, which are pending."""
        with self._cluster.connect() as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(
                "INSERT INTO archive (id, image_path)"
                " SELECT %s + n, path FROM unnest(%s::text[]) WITH ORDINALITY AS p (path, n)",
                (self._archived, self._rng.choices(self._images, k=ARCHIVED)),
            )
        self._archived += ARCHIVED

    def _kill(self, victim: str, postmaster: int, connection: Connection) -> list[str]:
        """What did not go as it should."""
        with self._cluster.connect() as other:
            encoder = encoder_pid(other)
        if victim in (POSTMASTER, WAITING):
            if victim == WAITING and encoder > 0:
                os.kill(encoder, signal.SIGSTOP)
                time.sleep(0.5)
            try:
                kill(postmaster)
            finally:
                if victim == WAITING and encoder > 0:
                    os.kill(encoder, signal.SIGCONT)
            if encoder > 0 and not gone(encoder):
                return ["the encoder process outlived its server by 10 s"]
        elif victim == BACKEND:
            kill(connection.info.backend_pid)
        elif encoder > 0:
            kill(encoder)
        else:
            return ["no encoder process ran"]
        return []

    def _look(self) -> list[str]:
        """What is wrong now, before the backfill goes on, and after it has."""
        with self._cluster.connect() as connection:
            wrong = [line for writer in self._writers for line in writer.settle(connection)]
            wrong += accounts.faults(connection, "killed")
            self.rows.tried += sum(len(writer.rows) for writer in self._writers)
            self.rows.lost += wrong
            late = accounts.faults(connection, "archive", may_be_pending=True)
            if (rows := number(connection, "SELECT count(*) FROM archive")) != self._archived:
                late.append(f"{rows} of {self._archived} rows")
            for table in ("killed", "archive"):
                late += accounts.heal(connection, table)
            self.backfills.tried += rows
            self.backfills.lost += late
        return wrong + late


def run(cluster: Cluster, pictures: Pictures, seconds: float, seed: int) -> list[Line]:
    """As many rounds as fit."""
    killing = Killing(cluster, pictures, seed)
    until = time.monotonic() + seconds
    done = 0
    while time.monotonic() < until or done < len(VICTIMS):
        killing.round(VICTIMS[done % len(VICTIMS)])
        done += 1
    return [*killing.lines.values(), killing.rows, killing.backfills]
