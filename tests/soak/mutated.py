"""Damaged pictures through the real encoder process, which must not mind."""

from __future__ import annotations

import random
import re
import time
from itertools import islice
from pathlib import Path

from tests.soak.cluster import Cluster, Connection, encoder_pid
from tests.soak.fuzz import mutants
from tests.soak.material import Pictures
from tests.soak.report import Line

COUNT = 2000

GROWTH = 200 << 20
"""Bytes that the encoder process may have more at the end than after the first tenth."""


def run(cluster: Cluster, pictures: Pictures, seconds: float, seed: int) -> list[Line]:
    """All of them, or as many as there is time for."""
    rows = Line("damaged pictures: embedded, or failed for a reason")
    process = Line("the encoder process meanwhile: the same, no larger")
    rng = random.Random(f"{seed}/mutated")
    until = time.monotonic() + seconds
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE mutated (id bigint PRIMARY KEY, how text, picture bytea)")
        connection.execute(
            "SELECT visrec.attach('mutated', image_column => 'picture', model => 'pixels')"
        )
        connection.execute("SELECT visrec.encoder_warm('pixels')")
        pid, settled = encoder_pid(connection), 0
        source = mutants(seed, COUNT)
        while (batch := list(islice(source, rng.choice([1, 8, 40])))) and time.monotonic() < until:
            _insert(connection, rows.tried, batch)
            rows.tried += len(batch)
            process.tried += 1
            size = resident(pid)
            if encoder_pid(connection) != pid:
                process.lost.append(f"another process after {batch[0][0]} … {batch[-1][0]}")
                pid, settled = encoder_pid(connection), 0
            elif rows.tried < COUNT // 10:
                settled = max(settled, size)
            elif size - settled > GROWTH:
                process.lost.append(
                    f"{size >> 20} MB after {rows.tried}, {settled >> 20} MB before"
                )
                settled = size
        process.note = f"{settled >> 20} MB after a tenth, {resident(pid) >> 20} MB at the end"
        rows.lost += unaccounted(connection)
    return [rows, process]


def _insert(connection: Connection, first: int, batch: list[tuple[str, bytes]]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO mutated (id, how, picture) SELECT %s + n, how, picture"
            " FROM unnest(%s::text[], %s::bytea[]) WITH ORDINALITY AS m (how, picture, n)",
            (first, [how for how, _ in batch], [data for _, data in batch]),
        )


def unaccounted(connection: Connection) -> list[str]:
    """Rows that are neither embedded nor failed, or failed for want of an encoder."""
    return [
        f"row {number} ({how}): {fault}"
        for number, how, fault in connection.execute(
            "SELECT t.id, t.how, coalesce(f.message, 'no vector and no failure')"
            " FROM mutated AS t LEFT JOIN visrec.failure AS f"
            " ON f.relation = 'mutated'::regclass AND f.row_id = t.id::text"
            " WHERE (t.content_vector IS NULL) = (f.row_id IS NULL)"
            " OR f.code = 'encoder_unavailable' ORDER BY t.id"
        ).fetchall()
    ]


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) << 10 if found else 0
