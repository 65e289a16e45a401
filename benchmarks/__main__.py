"""All figures in one run. Started by scripts/bench.sh, on a cluster that is its own."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import (
    bare,
    database,
    filtering,
    labels,
    material,
    parity,
    registered,
    report,
    searching,
    waits,
)
from benchmarks.report import Figure, median
from visrec_db.models import quantizing

MEGABYTE = 1 << 20


def main() -> None:
    options = _options()
    shared, cache = Path(os.environ["VISREC_SHARED_DIR"]), Path(os.environ["VISREC_BENCH_CACHE"])
    cache.mkdir(exist_ok=True)
    _say(f"the model and the pictures (kept in {cache})")
    model = material.make_model(cache)
    pictures = material.make_pictures(shared, cache, options.pictures, options.large)
    with database.connect() as connection:
        database.prepare(connection, model, pictures)
        connection.execute("SELECT visrec.encoder_warm(%s)", (database.MODEL,))
        status = connection.execute(
            "SELECT runtime, precision, device FROM visrec.encoder_status()"
        ).fetchall()[0]
    about = {
        **report.machine(),
        **dict(zip(("runtime", "precision", "device"), status, strict=True)),
    }
    about |= {"pictures": pictures.source, "rounds": options.rounds}
    about |= {"script_pictures": min(options.script, options.pictures)}
    figures = [
        *_speeds(options, model, pictures),
        *_waits(pictures),
        *_parity(model, pictures),
        *_searches(options, shared),
    ]
    _print(figures, about)
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(report.as_json(figures, about))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--script", type=int, default=100, help="pictures for the usual script")
    parser.add_argument("--large", type=int, default=60, help="pictures of 12 megapixels")
    parser.add_argument("--rounds", type=int, default=3, help="of the speeds, taken in turns")
    parser.add_argument("--rows", type=int, default=100_000, help="for the searches")
    parser.add_argument("--queries", type=int, default=200, help="for the searches")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    return parser.parse_args()


@dataclass(frozen=True)
class Round:
    """Seconds a picture, of one round; ``*_one``: the median of single ones."""

    script: float
    script_one: float
    alone: float
    backfill: float
    together: float
    single_one: float
    sessions: float
    others: float
    """The share of the processors that other processes used before it."""


def _speeds(options: argparse.Namespace, model: Path, pictures: material.Pictures) -> list[Figure]:
    paths = pictures.small
    with database.connect() as connection:
        _say("loading the model for the usual script, and for the encoder alone")
        script = bare.UsualScript(connection, model)
        alone = bare.EncoderAlone(model, pictures.root)
        script.run([pictures.root / path for path in paths[:3]])
        database.backfill(connection, paths[:64])
        rounds = []
        for number in range(options.rounds):
            rounds.append(_round(options, pictures, script, alone, connection))
            _say(f"round {number + 1} of {options.rounds}, pictures a second: {_rates(rounds[-1])}")
    many = min(500, len(paths))
    return [
        median("backfill against the usual script: times as fast",
               [r.script / r.backfill for r in rounds], 7),
        median("backfill against the encoder alone, no database",
               [r.alone / r.backfill for r in rounds], 0.85),
        median(f"one INSERT of {many} rows, against backfill",
               [r.backfill / r.together for r in rounds], 0.85),
        median("single-row INSERT, warm, against the usual script's time for one",
               [r.single_one / r.script_one for r in rounds], 0.35, at_most=True),
        median("8 sessions inserting single rows, together, against backfill",
               [r.backfill / r.sessions for r in rounds], 0.7),
    ]  # fmt: skip


def _rates(measured: Round) -> str:
    seconds = dict(vars(measured))
    others = seconds.pop("others")
    rates = ", ".join(f"{name} {1 / each:.1f}" for name, each in seconds.items())
    return f"{rates}; other processes use {others:.0%} of the processors"


def _round(
    options: argparse.Namespace,
    pictures: material.Pictures,
    script: bare.UsualScript,
    alone: bare.EncoderAlone,
    connection: database.Connection,
) -> Round:
    paths = pictures.small
    many, some = paths[:500], paths[: options.script]
    others = report.busy()
    one_by_one = script.run([pictures.root / path for path in some])
    singles = database.insert_singly(connection, some)
    return Round(
        script=statistics.mean(one_by_one),
        script_one=statistics.median(one_by_one),
        single_one=statistics.median(singles),
        alone=alone.run(paths) / len(paths),
        backfill=database.backfill(connection, paths) / len(paths),
        together=database.insert_together(connection, many) / len(many),
        sessions=database.insert_from(8, connection, many) / len(many),
        others=others,
    )


def _waits(pictures: material.Pictures) -> list[Figure]:
    paths = pictures.small
    _say("first and second INSERT of new connections")
    pairs = waits.first_and_second(paths[:30])
    _say("memory of 50 connections that have embedded, and of 50 others")
    embedded, others = waits.private_memory(paths[0], 50)
    _say("cancelling")
    cancelled = waits.cancels((paths * 500)[:500], 5)
    for kind, seconds in cancelled.items():
        _say(f"  {kind}: " + ", ".join(f"{1000 * s:.0f}" for s in seconds) + " ms")
    latest = [max(seconds) for seconds in cancelled.values()]
    _say("first INSERT after the server's start")
    first = waits.after_restart(os.environ["VISREC_BENCH_CLUSTER"], paths[0], 3)
    extra = statistics.median(embedded) - statistics.median(others)
    return [
        median("first INSERT of a new connection, warm: more than the second",
               [1000 * (a - b) for a, b in pairs], 60, at_most=True, unit=" ms"),
        median("first INSERT after the server's start, model cached",
               first, 2.5, at_most=True, unit=" s"),
        Figure("private memory of a connection that has embedded, over one that has not",
               extra / MEGABYTE, 8, True, " MB", [each / MEGABYTE for each in (*embedded, *others)],
               "medians of 50"),
        Figure("pg_cancel_backend and statement_timeout during an embedding take effect after",
               1000 * max(latest), 250, True, " ms",
               [1000 * s for seconds in cancelled.values() for s in seconds], "the latest of 20"),
    ]  # fmt: skip


def _parity(model: Path, pictures: material.Pictures) -> list[Figure]:
    _say("parity with transformers")
    small, large = pictures.small, pictures.large
    with database.connect() as connection:
        database.empty_table(connection)
        database.insert(connection, small + large)
        shipped, shipped_large = (parity.stored(connection, some) for some in (small, large))
    expected, expected_large = (
        parity.reference(model, [pictures.root / path for path in some]) for some in (small, large)
    )
    exact = parity.full_decode(model, pictures.root, small)
    rows = (
        ("fp32, full decode", exact, expected, 0.9999),
        ("as shipped, small files", shipped, expected, 0.998),
        ("as shipped, files of 12 megapixels", shipped_large, expected_large, 0.99),
    )
    figures = []
    for kind, ours, theirs, bound in rows:
        cosines = parity.cosines(ours, theirs)
        note = f"worst {cosines.min():.4f}"
        what = f"mean cosine with transformers, means taken off: {kind}"
        figures.append(
            Figure(what, float(cosines.mean()), bound, False, "", cosines.tolist(), note)
        )
    share = quantizing.shared_neighbours(shipped, expected)
    what = f"ten nearest of {len(small)} as shipped, shared with transformers' in fp32"
    return [*figures, Figure(what, share, 0.97, False, "", [share])]


def _searches(options: argparse.Namespace, shared: Path) -> list[Figure]:
    _say("a model as it is registered, and compiled by hand")
    by_hand = registered.measure(shared, min(500, options.pictures), _say)
    _say("photographs with labels")
    labelled = labels.measure(shared, _say)
    _say(f"searches among {options.rows:,} made-up vectors")
    found = searching.measure(options.rows, options.queries, _say)
    _say("searches under filters, among made-up vectors")
    return [*found, *filtering.measure(40, _say), *by_hand, *labelled]


def _print(figures: list[Figure], about: dict[str, Any]) -> None:
    units = ", ".join(about["bf16"]) or "no bf16 units"
    print(f"\n{about['cpu']}, {about['cores']} cores, {units}; "
          f"{about['runtime']} in {about['precision']} on {about['device']}; ViT-B/32")  # fmt: skip
    print(f"{about['pictures']}; the usual script on {about['script_pictures']} of them; "
          f"medians of {about['rounds']} rounds\n")  # fmt: skip
    print(report.as_table(figures))


_started = time.monotonic()


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _started:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    main()
