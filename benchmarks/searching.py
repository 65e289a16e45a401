"""What an index costs and finds, on made-up vectors: ``python -m benchmarks.searching --help``.

On the cluster that the environment names, in a database of its own, which is made anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks import vectors
from benchmarks.database import Connection

K = 10
Neighbours = list[list[int]]


def main() -> None:
    options = _options()
    connection = _database(options)
    held = np.concatenate(list(vectors.clustered(options.rows, noise=options.noise)))
    asked = np.random.default_rng(7).choice(options.rows, options.queries, replace=False)
    for method in options.methods:
        start = time.perf_counter()
        connection.execute("SELECT visrec.reindex('items', %s)", (method,))
        built = time.perf_counter() - start
        size = connection.execute(
            "SELECT coalesce(sum(pg_relation_size(indexrelid)), 0)::bigint FROM pg_index"
            " WHERE indrelid = 'items'::regclass AND NOT indisprimary"
        ).fetchall()[0][0]
        print(f"{method}: built in {built:.0f} s, {size / 1e6:.1f} MB", flush=True)
        print(f"  {_compare(connection, held, asked, method)}", flush=True)
    for share in options.filters:
        print(
            f"  filter keeping {share} %: {_filtered(connection, held, asked, share)}", flush=True
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searching", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--noise", type=float, default=0.6, help="see benchmarks/vectors.py")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--database", default="visrec_searching", help="made anew")
    parser.add_argument("--keep", action="store_true", help="use the rows of the run before")
    parser.add_argument(
        "--methods", nargs="*", default=["hnsw_half", "hnsw_binary", "ivfflat", "hnsw"]
    )
    parser.add_argument(
        "--filters", nargs="*", type=float, default=[50, 10, 7, 1, 0.1, 0.01], help="%% of the rows"
    )
    return parser.parse_args()


def _database(options: argparse.Namespace) -> Connection:
    with psycopg.connect(autocommit=True) as connection:
        if not options.keep:
            connection.execute(f"DROP DATABASE IF EXISTS {options.database}")
            connection.execute(f"CREATE DATABASE {options.database}")
    connection = psycopg.connect(dbname=options.database, autocommit=True)
    connection.execute("SET client_min_messages = warning")
    connection.execute("SET maintenance_work_mem = '1GB'")  # for building
    if not options.keep:
        connection.execute("CREATE EXTENSION visrec CASCADE")
        connection.execute(
            "CREATE TABLE items"
            " (id bigint PRIMARY KEY, image_path text, kind integer, content_vector vector(512))"
        )
        connection.execute("SELECT visrec.attach('items', model => 'pixels')")
        connection.execute("SELECT visrec.reindex('items', 'none')")
        vectors.fill(connection, "items", vectors.clustered(options.rows, noise=options.noise))
        connection.execute("VACUUM ANALYZE items")
    return connection


def _compare(connection: Connection, held: vectors.Vectors, asked: Any, method: str) -> str:
    """similar_items beside the statement that one would write by hand, in turns."""
    wanted = _nearest(held, asked, np.ones(len(held), bool))
    width = "ivfflat.probes" if method == "ivfflat" else "hnsw.ef_search"
    default = connection.execute("SHOW " + width).fetchall()[0][0]
    used = {"hnsw_binary": 201, "ivfflat": 2 * (len(held) // 1000) ** 0.5}.get(method, 100)
    seconds: dict[str, list[float]] = {"similar": [], "same": [], "default": []}
    found: dict[str, Neighbours] = {"similar": [], "same": [], "default": []}
    for turn, number in enumerate(asked):
        by_hand = _by_hand(method, str(held[number].tolist()), number + 1)
        similar = f"SELECT id FROM similar_items({number + 1})"  # noqa: S608 - a number
        # The first one reads what the others find in the cache: each is first a third of the time.
        for what in (list(seconds) * 2)[turn % 3 : turn % 3 + 3]:
            connection.execute(f"SET {width} = {int(used) if what == 'same' else default}")
            rows, took = _timed(connection, by_hand if what != "similar" else similar)
            seconds[what].append(took)
            found[what].append([row[0] for row in rows])
    connection.execute(f"RESET {width}")
    median = {what: 1e3 * statistics.median(values) for what, values in seconds.items()}
    recall = {what: _recall(values, wanted) for what, values in found.items()}
    return (
        f"similar_items {median['similar']:.2f} ms, recall@{K} {recall['similar']:.4f}; by hand at"
        f" {width} {int(used)} {median['same']:.2f} ms, {recall['same']:.4f}; at the default"
        f" {default} {median['default']:.2f} ms, {recall['default']:.4f};"
        f" ratios {median['similar'] / median['same']:.3f},"
        f" {median['similar'] / median['default']:.3f}"
    )


def _by_hand(method: str, vector: str, key: int) -> str:
    order = f"content_vector <=> '{vector}'"
    rows = f"FROM items WHERE id <> {key} ORDER BY"
    if method == "hnsw_half":
        order = f"content_vector::halfvec(512) <=> '{vector}'"
    elif method == "hnsw_binary":
        bits = "binary_quantize(content_vector)::bit(512)"
        bits = f"{bits} <~> binary_quantize('{vector}'::vector)::bit(512)"
        rows = f"FROM (SELECT * {rows} {bits} LIMIT {20 * K}) AS t ORDER BY"
    return f"SELECT id {rows} {order} LIMIT {K}"


def _filtered(connection: Connection, held: vectors.Vectors, asked: Any, share: float) -> str:
    below = round(share * 100)
    kept = vectors.kinds(len(held)) < below
    wanted = _nearest(held, asked, kept)
    found: Neighbours = []
    seconds = []
    for number in asked:
        kind = json.dumps({"kind": {"lt": below}})
        statement = f"SELECT id FROM similar_items({number + 1}, {K}, '{kind}')"  # noqa: S608
        rows, took = _timed(connection, statement)
        found.append([row[0] for row in rows])
        seconds.append(took)
    short = sum(len(rows) < len(there) for rows, there in zip(found, wanted, strict=True))
    return (
        f"{int(kept.sum())} rows, {1e3 * statistics.median(seconds):.2f} ms,"
        f" recall@{K} {_recall(found, wanted):.4f}, too few rows in {short} of {len(found)}"
    )


def _timed(connection: Connection, statement: str) -> tuple[list[tuple[Any, ...]], float]:
    start = time.perf_counter()
    rows = connection.execute(statement.encode()).fetchall()
    return rows, time.perf_counter() - start


def _nearest(held: vectors.Vectors, asked: Any, kept: NDArray[np.bool_]) -> Neighbours:
    numbers = np.flatnonzero(kept)
    wanted = []
    for number in asked:
        others = numbers[numbers != number]
        cosines = (held @ held[number])[others]
        wanted.append([int(others[place]) + 1 for place in np.argsort(-cosines)[:K]])
    return wanted


def _recall(found: Neighbours, wanted: Neighbours) -> float:
    hits = sum(len({*rows} & {*there}) for rows, there in zip(found, wanted, strict=True))
    return hits / sum(len(there) for there in wanted)


if __name__ == "__main__":
    main()
