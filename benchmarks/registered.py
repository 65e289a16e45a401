"""What is registered against the same model compiled by hand: real photographs, a real model."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import database, material
from benchmarks.report import Figure, median
from visrec_db.models import compiling

MODEL = "mobilenet_v2"
ROUNDS = 5
COMPILED = "compiled-by-hand"
REGISTERED = "registered"
MOST_SECONDS = 600
"""For the encoder process to compile it."""


def measure(shared: Path, count: int, say: Callable[[str], None]) -> list[Figure]:
    """Backfills in turns; nothing without photographs and the model."""
    data = material.test_data()
    photographs = material.spread(sorted((data / "clothing").glob("*/*.jpg")), count)
    if not photographs or not (data / MODEL).is_dir():
        say(f"  no photographs, or no {MODEL}: left out")
        return []
    root = shared / "registered-pictures"
    root.mkdir()
    paths = [f"{number:04d}.jpg" for number in range(len(photographs))]
    for path, photograph in zip(paths, photographs, strict=True):
        shutil.copyfile(photograph, root / path)
    for name in (COMPILED, REGISTERED):
        shutil.copytree(data / MODEL, shared / name)
    compiling.compile_model(shared / COMPILED)
    with database.connect() as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("SELECT visrec.set('image_roots', %s)", (str(root),))
        for name in (COMPILED, REGISTERED):
            connection.execute("SELECT visrec.register_model(%s, %s)", (name, str(shared / name)))
        _wait(connection, say)
        seconds: dict[str, list[float]] = {COMPILED: [], REGISTERED: []}
        for _ in range(ROUNDS):
            for name, taken in seconds.items():
                taken.append(database.backfill(connection, paths, model=name))
        database.drop_table(connection)
    for name, taken in seconds.items():
        say(f"  {name}: {len(paths) / statistics.median(taken):.1f} pictures a second")
    pairs = zip(seconds[COMPILED], seconds[REGISTERED], strict=True)
    what = f"backfill of {MODEL} as registered, against compiled by hand"
    return [median(what, [by_hand / registered for by_hand, registered in pairs], 0.95)]


def _wait(connection: database.Connection, say: Callable[[str], None]) -> None:
    until = time.monotonic() + MOST_SECONDS
    while True:
        rows = connection.execute(
            "SELECT model, concat(runtime, ' ', \"precision\", ': ', tried, slow)"
            " FROM visrec.encoder_status() WHERE NOT compiling"
        ).fetchall()
        found: dict[str, str] = dict(rows)
        if {COMPILED, REGISTERED} <= found.keys():
            break
        if time.monotonic() > until:
            raise RuntimeError(f"not compiled in {MOST_SECONDS} s")
        time.sleep(1)
    for name in (COMPILED, REGISTERED):
        say(f"  {name}: {found[name]}")
