"""What filters cost: searches that keep 0.01 to 100 % of two tables of made-up vectors.

Each against the better of the two ways to write it by hand: the index with pgvector's iterative
scan, and comparing row by row. Alone: ``python -m benchmarks.filtering``, on the cluster that the
environment names, in a database of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks import report, vectors
from benchmarks.database import Connection, scratch
from benchmarks.report import Figure

K = 10
DATABASE = "visrec_filtering"
SHARES = (0.01, 0.1, 1, 5, 10, 20, 30, 49.5, 50.5, 70, 100)
"""Of the rows that filters keep, in percent."""
TABLES = ((100_000, 512), (20_000, 1280))
"""Rows, and numbers in a vector."""
AT_MOST, OR_MORE = 1.5, 0.001
"""Times what the better way by hand takes, or seconds more."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filtering", description=__doc__)
    parser.add_argument("--queries", type=int, default=40)
    print(report.as_table(measure(parser.parse_args().queries, print)))


def measure(queries: int, say: Callable[[str], None]) -> list[Figure]:
    """All lines of the table."""
    figures = []
    with scratch(DATABASE) as own:
        for number, (rows, dimension) in enumerate(TABLES):
            table = _Table(own, f"items_{number}", rows, dimension)
            say(f"  {rows:,} vectors of {dimension} numbers: filled, with their index")
            figures += [f for share in SHARES for f in table.filtered(share, queries, say)]
    return figures


class _Table:
    """Rows with a price from 0 to 100, evenly spread, and the ways to search them."""

    def __init__(self, connection: Connection, name: str, rows: int, dimension: int) -> None:
        self._connection = connection
        self._name = name
        self._held = np.concatenate(list(vectors.smooth(rows, dimension)))
        self._prices = np.random.default_rng(3).permutation(rows) * 100 / rows
        self._fill(dimension)

    def filtered(self, share: float, queries: int, say: Callable[[str], None]) -> list[Figure]:
        """How long, against the better bare way; rows returned; how many are the nearest."""
        asked = np.random.default_rng(7).choice(len(self._held), queries, replace=False)
        # In a session of its own, as a client's: plans and libraries are there from the first turn.
        with psycopg.connect(dbname=DATABASE, autocommit=True) as session:
            seconds, found = self._in_turns(session, asked, share)
        ours, index, exact = (statistics.median(each) for each in seconds)
        wanted = self._nearest(asked, share)
        there = sum(len(rows) for rows in wanted)
        hits, by_hand = (
            sum(len({*rows} & {*best}) for rows, best in zip(each, wanted, strict=True))
            for each in found[:2]
        )
        returned = sum(len(rows) for rows in found[0])
        best = min(index, exact)
        # As a share of what is allowed: the time is 1.5 times the other at most, or 1 ms more.
        allowed = max(AT_MOST * best, best + OR_MORE)
        what = f"a filter that keeps {share:g} % of {len(self._held):,} × {self._held.shape[1]}"
        note = (
            f"{1e3 * ours:.2f} ms; by hand: index {1e3 * index:.2f} (recall {by_hand / there:.3f}),"
            f" row by row {1e3 * exact:.2f}"
        )
        say(f"  {what}: {note}; recall {hits / there:.4f}")
        of_all = returned / there
        return [
            Figure(f"{what}: of the time allowed", ours / allowed, 1, True, "", seconds[0], note),
            Figure(f"{what}: returned of min(k, existing)", of_all, 1, False, "", [of_all]),
            Figure(f"{what}: recall@{K}", hits / there, 0.98, False, "", [hits / there]),
        ]

    def _in_turns(
        self, session: Connection, asked: NDArray[np.int64], share: float
    ) -> tuple[list[list[float]], list[list[list[int]]]]:
        """Seconds of similar_, the index and row by row; and the keys that each returned."""
        by_hand = (
            "hnsw.iterative_scan = strict_order", "enable_sort = off", "enable_seqscan = off",
            "enable_bitmapscan = off"
        )  # fmt: skip
        orders = list(itertools.permutations(range(3)))
        seconds: list[list[float]] = [[], [], []]
        found: list[list[list[int]]] = [[], [], []]
        # pgvector's settings are known once its library is loaded.
        session.execute("SELECT '[1]'::vector")
        for turn, row in enumerate(asked):
            vector = self._held[row].tolist()
            ours = (
                f"SELECT id FROM similar_{self._name}({row + 1}, {K},"  # noqa: S608 - our name
                f" '{json.dumps({'price': {'lt': share}})}')"
            )
            index, exact = (
                f"SELECT id FROM {self._name} WHERE price < {share} AND id <> {row + 1}"  # noqa: S608
                f" ORDER BY (content_vector <=> '{vector}'){sorted_} LIMIT {K}"
                for sorted_ in ("", " + 0")
            )
            ways = [(ours, ()), (index, by_hand), (exact, ())]
            # In every order: one way reads into memory what the next finds there, or puts it out.
            for way in orders[turn % len(orders)]:
                statement, settings = ways[way]
                for setting in settings:
                    session.execute(f"SET {setting}".encode())
                start = time.perf_counter()
                rows = session.execute(statement.encode()).fetchall()
                seconds[way].append(time.perf_counter() - start)
                for setting in settings:
                    session.execute(f"RESET {setting.split()[0]}".encode())
                found[way].append([number for (number,) in rows])
        return seconds, found

    def _nearest(self, asked: NDArray[np.int64], share: float) -> list[list[int]]:
        numbers = np.flatnonzero(self._prices < share)
        some = self._held[numbers]
        wanted = []
        for row in asked:
            cosines = some @ self._held[row]
            cosines[numbers == row] = -np.inf
            count = min(K, len(numbers) - int(self._prices[row] < share))
            wanted.append((numbers[np.argsort(-cosines)[:count]] + 1).tolist())
        return wanted

    def _fill(self, dimension: int) -> None:
        c, name, rows = self._connection, self._name, len(self._held)
        c.execute(
            f"CREATE TABLE {name} (id bigint PRIMARY KEY, image_path text, kind integer,"
            f" price double precision, content_vector vector({dimension}))".encode()
        )
        if dimension != 512:  # a model with as many numbers, which embeds nothing here
            c.execute(
                "INSERT INTO visrec.model (name, dimension, fingerprint)"
                " VALUES ('made up', %s, 'made up')",
                (dimension,),
            )
        model = "pixels" if dimension == 512 else "made up"
        c.execute("SELECT visrec.attach(%s::regclass, model => %s)", (name, model))
        c.execute("CALL visrec.reindex(%s::regclass, 'none')", (name,))
        vectors.fill(c, name, iter([self._held]))
        c.execute("CREATE TEMPORARY TABLE prices (id bigint PRIMARY KEY, price double precision)")
        with c.cursor() as cursor, cursor.copy("COPY prices FROM STDIN") as copy:
            for row in range(rows):
                copy.write_row((row + 1, float(self._prices[row])))
        c.execute(
            f"UPDATE {name} AS t SET price = p.price FROM prices AS p"  # noqa: S608 - our name
            " WHERE p.id = t.id".encode()
        )
        c.execute("DROP TABLE prices")
        c.execute(f"VACUUM FULL {name}".encode())
        c.execute("CALL visrec.reindex(%s::regclass, 'hnsw')", (name,))
        c.execute(f"VACUUM ANALYZE {name}".encode())


if __name__ == "__main__":
    main()
