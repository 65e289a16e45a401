"""What searches of 100,000 made-up vectors cost and find.

Alone: ``python -m benchmarks.searching``, on the cluster that the environment names, in a database
of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report, vectors
from benchmarks.database import Connection, scratch
from benchmarks.report import Figure

K = 10
DATABASE = "visrec_searching"
FILTERS = (1, 0.1, 0.01)
"""Shares of the rows that filters keep, in percent."""

Neighbours = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searching", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.6, help="see benchmarks/vectors.py")
    options = parser.parse_args()
    print(report.as_table(measure(options.rows, options.queries, print, options.noise)))


def measure(
    rows: int, queries: int, say: Callable[[str], None], noise: float = 0.6
) -> list[Figure]:
    """All lines of the table."""
    held = np.concatenate(list(vectors.clustered(rows, noise=noise)))
    asked = np.random.default_rng(7).choice(rows, queries, replace=False)
    with _database() as connection:
        vectors.fill(connection, "items", iter([held]))
        connection.execute("VACUUM ANALYZE items")
        table = _Table(connection, held, asked, say)
        half = table.reindex("hnsw_half")
        recall_half = table.recall()
        binary = table.reindex("hnsw_binary")
        recall_binary = table.recall()
        whole = table.reindex("hnsw")
        recall = table.recall()
        say(f"  recall@{K}: {recall:.4f}; half {recall_half:.4f}, binary {recall_binary:.4f}")
        table.same_width()
        similar, bare = table.in_turns(table.similar, table.bare)
        taste, search = table.in_turns(table.recommend, table.similar)
        of = f"{rows:,} vectors"
        return [
            _ratio(f"similar_posts among {of}, against the bare query", similar, bare, 1.1),
            _share(f"recall@{K} of similar_posts among {of}", recall, 0.98),
            _share(f"recall@{K} with hnsw_half", recall_half, 0.97),
            _size("size of the index hnsw_half, against hnsw", half / whole, 0.55),
            _size("size of the index hnsw_binary, against hnsw", binary / whole, 0.15),
            *(figure for share in FILTERS for figure in table.filtered(share)),
            _ratio("recommend_posts, 20 liked, 5 disliked, against similar_posts",
                   taste, search, 2),
        ]  # fmt: skip


def _recall(found: Neighbours, wanted: Neighbours) -> float:
    hits = sum(len({*rows} & {*there}) for rows, there in zip(found, wanted, strict=True))
    return hits / sum(len(there) for there in wanted)


def _ratio(what: str, ours: list[float], theirs: list[float], bound: float) -> Figure:
    value = statistics.median(ours) / statistics.median(theirs)
    note = f"{1e3 * statistics.median(ours):.2f} ms"
    return Figure(what, value, bound, True, "", [*ours, *theirs], note)


def _share(what: str, value: float, bound: float) -> Figure:
    return Figure(what, value, bound, False, "", [value])


def _size(what: str, value: float, bound: float) -> Figure:
    return Figure(what, value, bound, True, "", [value])


@contextmanager
def _database() -> Iterator[Connection]:
    with scratch(DATABASE) as own:
        own.execute(
            "CREATE TABLE items (id bigint PRIMARY KEY, image_path text, kind integer,"
            " content_vector vector(512))"
        )
        own.execute("SELECT visrec.attach('items', model => 'pixels')")
        own.execute("CALL visrec.reindex('items', 'none')")
        yield own


class _Table:
    """The table ``items``, what is in it, and the rows that are asked for."""

    def __init__(
        self,
        connection: Connection,
        held: vectors.Vectors,
        asked: NDArray[np.int64],
        say: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._held = held
        self._asked = asked
        self._say = say

    def reindex(self, method: str) -> int:
        """Bytes of the index."""
        start = time.perf_counter()
        self._connection.execute("CALL visrec.reindex('items', %s)", (method,))
        size = self._connection.execute(
            "SELECT sum(pg_relation_size(indexrelid))::bigint FROM pg_index"
            " WHERE indrelid = 'items'::regclass AND NOT indisprimary AND indpred IS NULL"
        ).fetchall()[0][0]
        self._say(f"  {method}: built in {time.perf_counter() - start:.0f} s, {size / 1e6:.0f} MB")
        return int(size)

    def same_width(self) -> None:
        """Has the bare query look as broadly as the table's searches do."""
        [(width,)] = self._connection.execute("SELECT width FROM visrec.attached").fetchall()
        self._connection.execute(f"SET hnsw.ef_search = {width or 40}".encode())

    def recall(self) -> float:
        return _recall(self._found(None), self._nearest(np.ones(len(self._held), bool)))

    def filtered(self, share: float) -> list[Figure]:
        """Rows returned of those that there are, and how many are the nearest."""
        below = round(share * 100)
        kept = vectors.kinds(len(self._held)) < below
        found, wanted = self._found(below), self._nearest(kept)
        returned, there = (sum(len(rows) for rows in each) for each in (found, wanted))
        what = f"a filter that keeps {share:g} % ({int(kept.sum())} rows)"
        return [
            _share(f"{what}: returned of min(k, existing)", returned / there, 1),
            _share(f"{what}: recall@{K}", _recall(found, wanted), 0.98),
        ]

    def in_turns(self, *statements: Callable[[int], str]) -> list[list[float]]:
        """Seconds of each statement for each row. Each is as often first, which reads for all."""
        seconds: list[list[float]] = [[] for _ in statements]
        for _ in range(2):
            for turn, row in enumerate(self._asked):
                order = list(range(len(statements)))
                for number in order[turn % len(order) :] + order[: turn % len(order)]:
                    statement = statements[number](int(row) + 1)
                    start = time.perf_counter()
                    self._connection.execute(statement.encode()).fetchall()
                    seconds[number].append(time.perf_counter() - start)
        return seconds

    def similar(self, row: int) -> str:
        return f"SELECT id FROM similar_items({row})"  # noqa: S608 - a number

    def bare(self, row: int) -> str:
        """The statement that one would write by hand, with the vector in it."""
        vector = self._held[row - 1].tolist()
        return (
            f"SELECT id FROM items WHERE id <> {row}"  # noqa: S608 - numbers
            f" ORDER BY content_vector <=> '{vector}' LIMIT {K}"
        )

    def recommend(self, row: int) -> str:
        """For rows of three of the made-up clusters, as a user's taste is."""
        centres, rows = 1000, len(self._held)
        liked = [(row + n * centres + n % 3) % rows + 1 for n in range(20)]
        disliked = [(row + n * centres + 500) % rows + 1 for n in range(5)]
        return f"SELECT id FROM recommend_items(ARRAY{liked}, ARRAY{disliked})"  # noqa: S608

    def _found(self, below: int | None) -> Neighbours:
        kind = "NULL" if below is None else f"'{json.dumps({'kind': {'lt': below}})}'"
        found = []
        for row in self._asked:
            statement = f"SELECT id FROM similar_items({row + 1}, {K}, {kind})"  # noqa: S608
            rows: list[tuple[Any, ...]] = self._connection.execute(statement.encode()).fetchall()
            found.append([number for (number,) in rows])
        return found

    def _nearest(self, kept: NDArray[np.bool_]) -> Neighbours:
        numbers = np.flatnonzero(kept)
        some = self._held[numbers]
        wanted = []
        for row in self._asked:
            cosines = some @ self._held[row]
            cosines[numbers == row] = -np.inf
            count = min(K, len(numbers) - int(kept[row]))
            wanted.append((numbers[np.argsort(-cosines)[:count]] + 1).tolist())
        return wanted


if __name__ == "__main__":
    main()
