"""What searches find once ``visrec.tune`` has found their width.

``python -m benchmarks.tuning``, on the cluster that the environment names, in a database of its
own. Vectors of three kinds; the index is built with ``maintenance_work_mem`` of 1 GB.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks import report, vectors
from benchmarks.database import Connection, scratch
from benchmarks.report import Figure

K = 10
QUERIES = 200
DATABASE = "visrec_tuning"
KINDS: dict[str, Callable[[int], Iterator[vectors.Vectors]]] = {
    "clustered": vectors.clustered,
    "nearly isotropic": vectors.nearly_isotropic,
    "copies with noise": vectors.copies,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--target", type=float, default=0.98)
    options = parser.parse_args()
    figures = []
    for rows in options.rows:
        for kind in options.kinds:
            figures.append(_measure(kind, rows, options.target))
            print(report.as_table(figures[-1:]), flush=True)
    print(report.as_table(figures))


def _measure(kind: str, rows: int, target: float) -> Figure:
    """The recall of other queries than tune's; or it said what would reach the target."""
    held = np.concatenate(list(KINDS[kind](rows)))
    said: list[str] = []
    with _database() as connection:
        connection.add_notice_handler(lambda notice: said.append(notice.message_hint or ""))
        connection.execute(
            "SELECT visrec.attach('items', model => 'pixels', recall => %s)", [target]
        )
        connection.execute("CALL visrec.reindex('items', 'none')")
        vectors.fill(connection, "items", iter([held]))
        connection.execute("VACUUM ANALYZE items")
        start = time.perf_counter()
        with connection.transaction():  # where it does not tune by itself
            connection.execute("CALL visrec.reindex('items', 'hnsw')")
        built = time.perf_counter() - start
        said.clear()
        start = time.perf_counter()
        tried = connection.execute("SELECT width, recall, ms FROM visrec.tune('items')").fetchall()
        tuned = time.perf_counter() - start
        [(width,)] = connection.execute("SELECT width FROM visrec.attached").fetchall()
        recall = _recall(connection, held)
    print(f"  {kind}, {rows:,} rows: built in {built:.0f} s, tuned in {tuned:.0f} s", flush=True)
    print("    " + ", ".join(f"{w}: {r:.3f} ({ms:.1f} ms)" for w, r, ms in tried), flush=True)
    word = next((hint for hint in said if hint.startswith("CALL visrec.reindex")), None)
    note = f"width {width}" + (f"; out of reach, said so: {word}" if word else "")
    # Who was told what would reach the target was told the truth.
    bound = 0.0 if word else target
    what = f"recall@{K} after tune, {kind}, {rows:,} rows"
    return Figure(what, recall, bound, False, "", [recall], note)


def _recall(connection: Connection, held: vectors.Vectors) -> float:
    """Of rows drawn anew, against all of them compared here."""
    asked = np.random.default_rng(11).choice(len(held), QUERIES, replace=False)
    hits = 0
    for row in asked:
        cosines = held @ held[row]
        cosines[row] = -np.inf
        farthest = np.partition(cosines, -K)[-K]
        found = connection.execute("SELECT id FROM similar_items(%s, %s)", (int(row) + 1, K))
        hits += sum(cosines[number - 1] >= farthest - 1e-6 for (number,) in found)
    return hits / (K * len(asked))


@contextmanager
def _database() -> Iterator[Connection]:
    with scratch(DATABASE) as own:
        own.execute(
            "CREATE TABLE items (id bigint PRIMARY KEY, image_path text, kind integer,"
            " content_vector vector(512))"
        )
        yield own


if __name__ == "__main__":
    main()
