"""Every row accounted for: what its image allows it to be, and what coverage says of it.

The table ``allowed`` has a line for each thing that a row with a path may end as: the vector of
one of the file's versions, or a failure with a code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import psycopg
from psycopg import IsolationLevel
from psycopg.sql import SQL, Identifier, Literal

from tests.soak.cluster import Connection

SAME = 1e-4
"""Cosine distance of two embeddings of the same picture, at most."""


def make(connection: Connection) -> None:
    """The table ``allowed``, anew."""
    connection.execute("DROP TABLE IF EXISTS allowed")
    connection.execute("CREATE TABLE allowed (path text NOT NULL, vector vector, code text)")
    connection.execute("CREATE INDEX ON allowed (path)")


def allow_vectors(connection: Connection, paths: Iterable[str]) -> None:
    """Rows with these paths may have the vectors that the files give now."""
    connection.execute(
        "INSERT INTO allowed (path, vector)"
        " SELECT path, visrec.embed_image(path, 'pixels') FROM unnest(%s::text[]) AS path",
        (list(paths),),
    )


def allow_failures(connection: Connection, path: str, codes: Collection[str]) -> None:
    """Rows with this path may have failed, for one of these reasons."""
    connection.execute(
        "INSERT INTO allowed (path, code) SELECT %s, unnest(%s::text[])", (path, list(codes))
    )


def faults(connection: Connection, table: str, *, may_be_pending: bool = False) -> list[str]:
    """What is wrong with the rows and the failures of a table, at one moment; a line for each."""
    query = SQL("""
        WITH judged AS (
            SELECT t.id::text AS id, t.image_path, f.code, CASE
                WHEN t.content_vector IS NOT NULL AND f.row_id IS NOT NULL THEN
                    'has a vector and a failure'
                WHEN t.image_path IS NULL AND (t.content_vector IS NOT NULL OR f.row_id IS NOT NULL)
                    THEN 'has no image, but a vector or a failure'
                WHEN t.content_vector IS NOT NULL AND NOT EXISTS (
                    SELECT FROM allowed AS a WHERE a.path = t.image_path
                        AND (a.vector <=> t.content_vector) <= {same})
                    THEN 'has the vector of something else'
                WHEN f.image IS DISTINCT FROM t.image_path AND f.row_id IS NOT NULL THEN
                    'has the failure of another image: ' || coalesce(f.image, 'none')
                WHEN f.row_id IS NOT NULL AND NOT EXISTS (
                    SELECT FROM allowed AS a WHERE a.path = t.image_path AND a.code = f.code)
                    THEN 'should not have failed so: ' || f.message
                WHEN t.content_vector IS NULL AND t.image_path IS NOT NULL AND f.row_id IS NULL
                    AND NOT {may_be_pending} THEN 'is pending'
            END AS fault
            FROM {table} AS t
            LEFT JOIN visrec.failure AS f
                ON f.relation = {name}::regclass AND f.row_id = t.id::text
            UNION ALL
            SELECT f.row_id, f.image, f.code, 'has a failure, and is gone'
            FROM visrec.failure AS f
            WHERE f.relation = {name}::regclass
                AND NOT EXISTS (SELECT FROM {table} AS t WHERE t.id::text = f.row_id))
        SELECT format('row %s of %s (%s, %s) %s', id, {name}, coalesce(image_path, 'no image'),
            coalesce(code, 'no failure'), fault)
        FROM judged WHERE fault IS NOT NULL ORDER BY id
        """).format(
        table=Identifier(table),
        name=Literal(table),
        same=Literal(SAME),
        may_be_pending=Literal(may_be_pending),
    )
    return [str(line) for (line,) in connection.execute(query).fetchall()]


def snapshots(connection: Connection) -> None:
    """From now on, each transaction of this session sees one moment."""
    connection.autocommit = False
    connection.isolation_level = IsolationLevel.REPEATABLE_READ


def coverage_fault(connection: Connection, table: str) -> str | None:
    """How visrec.coverage differs from a look at the rows, in one snapshot; None if it does not."""
    name = Identifier(table)
    with connection.transaction():
        told: dict[str, int] = dict(
            connection.execute("SELECT state, rows FROM visrec.coverage(%s)", (table,)).fetchall()
        )
        [(rows,)] = connection.execute(SQL("SELECT count(*) FROM {}").format(name)).fetchall()
        found: dict[str, int] = dict(
            connection.execute(
                SQL("""
                SELECT CASE WHEN content_vector IS NOT NULL THEN 'embedded'
                            WHEN image_path IS NULL THEN 'no_image'
                            WHEN id::text IN (SELECT row_id FROM visrec.failure
                                              WHERE relation = {}::regclass) THEN 'failed'
                            ELSE 'pending' END, count(*)
                FROM {} GROUP BY 1""").format(Literal(table), name)
            ).fetchall()
        )
    if sum(told.values()) != rows:
        return f"coverage counts {sum(told.values())} of {rows} rows: {told}"
    if {state: count for state, count in told.items() if count} != found:
        return f"coverage says {told}, the rows {found}"
    return None


def backfill(connection: Connection, table: str, size: int = 64) -> None:
    connection.execute("CALL visrec.backfill(%s, %s)", (table, size))


def heal(connection: Connection, table: str) -> list[str]:
    """Embed what can be embedded; what is wrong afterwards."""
    try:
        connection.execute("SELECT visrec.retry(%s)", (table,))
        backfill(connection, table)
    except psycopg.Error as error:
        return [f"backfill of {table}: {error}"]
    fault = coverage_fault(connection, table)
    return [*faults(connection, table), *([fault] if fault else [])]
