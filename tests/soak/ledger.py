"""A session that writes rows of its own, and knows what must be there after a crash."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import psycopg
from psycopg.sql import SQL, Identifier

from tests.soak.cluster import Connection, lost

Rows = dict[int, str | None]
"""Image paths by key."""

RANGE = 1_000_000
"""Keys that each writer has to itself."""


class Writer:
    """Inserts, updates and deletes rows that no other session touches.

    ``rows`` are as the last answered commit left them. ``unsure``: what they are instead if a
    commit whose answer was lost came through.
    """

    def __init__(self, table: str, number: int, images: Sequence[str | None], seed: str) -> None:
        self.rows: Rows = {}
        self.unsure: Rows | None = None
        self.commits = 0
        self._images = images
        self._table = Identifier(table)
        self._first = number * RANGE
        self._next = self._first
        self._rng = random.Random(seed)

    def write(self, connection: Connection) -> bool:
        """One transaction; False if the connection was lost. Other errors are raised."""
        after = dict(self.rows)
        try:
            way = self._rng.choice(["alone", "alone", "block", "block", "rollback"])
            if way == "alone":  # lost at any moment, it may have been committed
                run = self._draw(connection, after)
                self.unsure = after
                run()
            else:
                connection.execute("BEGIN")
                for _ in range(self._rng.randint(1, 3)):
                    self._draw(connection, after)()
                    self._rolled_back_to_a_savepoint(connection, after)
                if way == "rollback":
                    connection.execute("ROLLBACK")
                    return True
                self.unsure = after
                connection.execute("COMMIT")
        except psycopg.Error:
            if not lost(connection):
                raise
            return False
        self.rows, self.unsure = after, None
        self.commits += 1
        return True

    def _rolled_back_to_a_savepoint(self, connection: Connection, rows: Rows) -> None:
        if self._rng.random() < 0.3:
            connection.execute("SAVEPOINT s")
            self._draw(connection, dict(rows))()
            connection.execute("ROLLBACK TO s")

    def _draw(self, connection: Connection, rows: Rows) -> Callable[[], object]:
        """A statement to run; ``rows`` are changed as it will change them."""
        choices = [self._insert, self._insert, self._copy]
        if rows:
            choices += [self._update, self._delete]
        return self._rng.choice(choices)(connection, rows)

    def _new(self, rows: Rows, most: int) -> Rows:
        count = self._rng.choice([1, 1, self._rng.randint(2, most)])
        new = {
            self._next + place: path
            for place, path in enumerate(self._rng.choices(self._images, k=count))
        }
        self._next += count
        rows.update(new)
        return new

    def _some(self, rows: Rows, most: int) -> list[int]:
        return self._rng.sample(sorted(rows), k=min(len(rows), self._rng.randint(1, most)))

    def _insert(self, connection: Connection, rows: Rows) -> Callable[[], object]:
        new = self._new(rows, 12)
        return lambda: connection.execute(
            SQL(
                "INSERT INTO {} (id, image_path) SELECT * FROM unnest(%s::bigint[], %s::text[])"
            ).format(self._table),
            (list(new), list(new.values())),
        )

    def _copy(self, connection: Connection, rows: Rows) -> Callable[[], object]:
        new = self._new(rows, 30)

        def run() -> None:
            statement = SQL("COPY {} (id, image_path) FROM STDIN").format(self._table)
            with connection.cursor().copy(statement) as copy:
                for row in new.items():
                    copy.write_row(row)

        return run

    def _update(self, connection: Connection, rows: Rows) -> Callable[[], object]:
        ids = self._some(rows, 6)
        paths = self._rng.choices(self._images, k=len(ids))
        rows.update(zip(ids, paths, strict=True))
        return lambda: connection.execute(
            SQL(
                "UPDATE {} AS t SET image_path = n.path"
                " FROM unnest(%s::bigint[], %s::text[]) AS n (id, path) WHERE t.id = n.id"
            ).format(self._table),
            (ids, paths),
        )

    def _delete(self, connection: Connection, rows: Rows) -> Callable[[], object]:
        ids = self._some(rows, 8)
        for number in ids:
            del rows[number]
        return lambda: connection.execute(
            SQL("DELETE FROM {} WHERE id = ANY (%s)").format(self._table), (ids,)
        )

    def settle(self, connection: Connection) -> list[str]:
        """Compare with what is there, and go on from that; a line for each row that is wrong.

        A transaction of which nothing is known is there as a whole or not at all.
        """
        found: Rows = dict(
            connection.execute(
                SQL("SELECT id, image_path FROM {} WHERE id >= %s AND id < %s").format(self._table),
                (self._first, self._first + RANGE),
            ).fetchall()
        )
        expected, unsure = self.rows, self.unsure
        self.rows, self.unsure = found, None
        if found in (expected, unsure):
            return []
        wrong = sorted(
            number
            for number in found.keys() | expected.keys()
            if found.get(number, "no row") != expected.get(number, "no row")
        )
        also = "" if unsure is None else ", nor is the last transaction there as a whole"
        return [
            f"row {number}: {found.get(number, 'no row')} instead of"
            f" {expected.get(number, 'no row')}{also}"
            for number in wrong
        ]
