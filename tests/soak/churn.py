"""Sessions that work on the same few rows, while somebody counts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from tests.soak import accounts
from tests.soak.cluster import Cluster, Connection
from tests.soak.material import Pictures
from tests.soak.report import Line
from tests.soak.threads import Threads

ROWS = 40
"""Keys that all sessions work on."""

# Rows are locked in the order of their keys, so that a deadlock is not the statement's own fault.
INSERT = SQL(
    "INSERT INTO {} (id, image_path) SELECT * FROM unnest(%s::bigint[], %s::text[])"
    " ON CONFLICT (id) DO NOTHING"
)
UPSERT = SQL(
    "INSERT INTO {} (id, image_path) SELECT * FROM unnest(%s::bigint[], %s::text[])"
    " ON CONFLICT (id) DO UPDATE SET image_path = excluded.image_path"
)
UPDATE = SQL(
    "WITH n AS (SELECT * FROM unnest(%s::bigint[], %s::text[]) AS n (id, path)),"
    " held AS (SELECT t.id FROM {0} AS t WHERE t.id IN (SELECT id FROM n)"
    "          ORDER BY t.id FOR UPDATE)"
    " UPDATE {0} AS t SET image_path = n.path FROM held JOIN n USING (id) WHERE t.id = held.id"
)
DELETE = SQL(
    "WITH held AS (SELECT t.id FROM {0} AS t WHERE t.id = ANY (%s) ORDER BY t.id FOR UPDATE)"
    " DELETE FROM {0} AS t USING held WHERE t.id = held.id"
)


class Churn:
    """``connect`` opens autocommit sessions; ``table`` is attached, its images are paths.

    ``appearing``: a path of ``images`` whose file comes and goes, with what is in it.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        table: str,
        images: Sequence[str | None],
        seed: int,
        appearing: tuple[Path, bytes] | None = None,
    ) -> None:
        self._connect = connect
        self._table = table
        self._images = images
        self._seed = seed
        self._appearing = appearing
        self.statements = Line("statements on the same rows: no deadlock, no error")
        self.samples = Line("coverage under load: the sum, and each state")

    def run(self, sessions: int, samples: int, seconds: float) -> None:
        """Until so many seconds are over and coverage has been looked at so often."""
        threads = Threads()
        connections = [self._connect() for _ in range(sessions)]
        helpers = [self._backfill, self._retry, self._backfill][: max(sessions // 8, 2)]
        for place, connection in enumerate(connections):
            work = helpers[place] if place < len(helpers) else self._write
            rng = random.Random(f"{self._seed}/{place}")
            threads.start(partial(self._repeat, work, connection, rng, threads))
        if self._appearing is not None:
            threads.start(partial(self._come_and_go, *self._appearing, threads))
        until = time.monotonic() + seconds
        with self._connect() as connection:
            accounts.snapshots(connection)
            while time.monotonic() < until or self.samples.tried < samples:
                fault = accounts.coverage_fault(connection, self._table)
                self.samples.tried += 1
                self.samples.lost += [fault] if fault else []
                time.sleep(max((until - time.monotonic()) / (4 * samples), 0.01))
        left = threads.join()
        self.statements.lost += [f"{left} statements did not end"] if left else []
        self.statements.lost += [repr(error) for error in threads.raised]
        for connection in connections:
            connection.close()

    def _repeat(
        self,
        work: Callable[[Connection, random.Random], None],
        connection: Connection,
        rng: random.Random,
        threads: Threads,
    ) -> None:
        while not threads.stop.is_set():
            self.statements.tried += 1
            try:
                work(connection, rng)
            except psycopg.Error as error:
                self.statements.lost.append(f"{error.sqlstate} in {work.__name__}: {error}")
                if connection.closed:
                    return

    def _write(self, connection: Connection, rng: random.Random) -> None:
        ids = sorted(rng.sample(range(ROWS), k=rng.choice([1, 1, 2, 6])))
        paths = rng.choices(self._images, k=len(ids))
        statement = rng.choice([INSERT, UPSERT, UPDATE, UPDATE, DELETE])
        query = statement.format(Identifier(self._table))
        connection.execute(query, (ids,) if statement is DELETE else (ids, paths))

    def _backfill(self, connection: Connection, rng: random.Random) -> None:
        size = rng.choice([1, 4, 64])
        accounts.backfill(connection, self._table, size)

    def _retry(self, connection: Connection, rng: random.Random) -> None:
        connection.execute("SELECT visrec.retry(%s)", (self._table,))
        time.sleep(rng.uniform(0, 0.05))

    def _come_and_go(self, path: Path, data: bytes, threads: Threads) -> None:
        ready = path.with_suffix(".ready")
        while not threads.stop.is_set():
            ready.write_bytes(data)
            ready.rename(path)
            time.sleep(0.03)
            path.unlink()
            time.sleep(0.03)
        path.write_bytes(data)


def run(cluster: Cluster, pictures: Pictures, seconds: float, seed: int) -> list[Line]:
    """32 sessions; at the end every row is accounted for."""
    rows = Line("rows after that: accounted for")
    appearing = pictures.root / "appearing.jpg"
    data = (pictures.root / pictures.good[0]).read_bytes()
    images = [*pictures.good[:12], *pictures.bad, None, *[appearing.name] * 4]
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE busy (id bigint PRIMARY KEY, image_path text)")
        connection.execute("SELECT visrec.attach('busy', model => 'pixels')")
        appearing.write_bytes(data)
        accounts.allow_vectors(connection, [appearing.name])
        accounts.allow_failures(connection, appearing.name, ["missing"])
        churn = Churn(cluster.connect, "busy", images, seed, (appearing, data))
        churn.run(sessions=32, samples=100, seconds=seconds)
        rows.lost += accounts.faults(connection, "busy")
        connection.execute(
            "DELETE FROM allowed WHERE path = %s AND code = 'missing'", (appearing.name,)
        )
        rows.lost += accounts.heal(connection, "busy")
        [(rows.tried,)] = connection.execute("SELECT count(*) FROM busy").fetchall()
    return [churn.statements, churn.samples, rows]
