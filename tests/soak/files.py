"""Pictures that are replaced, rewritten and deleted while rows that name them are inserted."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

from tests.soak import accounts
from tests.soak.cluster import Cluster, number
from tests.soak.material import Pictures
from tests.soak.report import Line
from tests.soak.threads import Threads

FILES, VERSIONS, SESSIONS, CHANGERS = 12, 3, 6, 3

CODES = ["missing", "truncated", "not_an_image", "unreadable"]
"""What may become of a row whose file is being changed."""


class Changing:
    """Some files in ``root``, each with one of its versions, or in the middle of a change."""

    def __init__(self, root: Path, pictures: Pictures) -> None:
        root.mkdir(exist_ok=True)
        versions = [(pictures.root / path).read_bytes() for path in pictures.good]
        self.paths = [root / f"{place}.jpg" for place in range(FILES)]
        self._versions = [
            [versions[(place + FILES * n) % len(versions)] for n in range(VERSIONS)]
            for place in range(FILES)
        ]
        self.changes = 0

    def write(self, version: int) -> None:
        """All files whole."""
        for path, versions in zip(self.paths, self._versions, strict=True):
            path.write_bytes(versions[version])

    def change(self, rng: random.Random, places: range, threads: Threads) -> None:
        """Change these files until told to stop; each is whole then. Nobody else changes them."""
        while not threads.stop.is_set():
            place = rng.choice(places)
            path, data = self.paths[place], rng.choice(self._versions[place])
            way = rng.choice([self._replace, self._rewrite, self._recreate])
            way(path, data, rng)
            self.changes += 1
            time.sleep(rng.uniform(0, 0.02))

    def _replace(self, path: Path, data: bytes, rng: random.Random) -> None:
        ready = path.with_suffix(".ready")
        ready.write_bytes(data)
        ready.rename(path)

    def _rewrite(self, path: Path, data: bytes, rng: random.Random) -> None:
        """As cp does: the same file, emptied and filled again."""
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(data), 4096):
                file.write(data[start : start + 4096])
                time.sleep(rng.choice([0, 0, 0.002]))

    def _recreate(self, path: Path, data: bytes, rng: random.Random) -> None:
        path.unlink()
        time.sleep(rng.uniform(0, 0.02))
        path.write_bytes(data)


def run(cluster: Cluster, pictures: Pictures, seconds: float, seed: int) -> list[Line]:
    """Rows of changing files; when the files are whole, all rows get vectors: in the end those
    of the files' last content.
    """
    rows = Line("rows whose files change: a version's vector, or a failure")
    healed = Line("those that failed, retried when the files are whole")
    rechecked = Line("rows after visrec.recheck: the vector of what the file holds now")
    changing = Changing(pictures.root / "changing", pictures)
    names = [str(path.relative_to(pictures.root)) for path in changing.paths]
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE changing (id bigint PRIMARY KEY, image_path text)")
        connection.execute("SELECT visrec.attach('changing', model => 'pixels')")
        for version in range(VERSIONS):
            changing.write(version)
            accounts.allow_vectors(connection, names)
        for name in names:
            accounts.allow_failures(connection, name, CODES)

        changers, writers = Threads(), Threads()
        for n in range(CHANGERS):
            changers.start(
                partial(
                    changing.change,
                    random.Random(f"{seed}/changer/{n}"),
                    range(n, FILES, CHANGERS),
                    changers,
                )
            )
        for n in range(SESSIONS):
            rng = random.Random(f"{seed}/writer/{n}")
            writers.start(partial(_write, cluster, n, names, rng, writers))
        time.sleep(seconds)
        stuck = writers.join() + changers.join()
        rows.tried = number(connection, "SELECT count(*) FROM changing")
        failed = number(
            connection,
            "SELECT count(*) FROM visrec.failure WHERE relation = 'changing'::regclass",
        )
        rows.note = f"{changing.changes:,} changes, {failed:,} rows failed"
        rows.lost += [f"{stuck} threads did not end"] if stuck else []
        rows.lost += [repr(error) for error in writers.raised + changers.raised]
        rows.lost += accounts.faults(connection, "changing")
        connection.execute(
            "DELETE FROM allowed WHERE code = ANY (%s) AND path = ANY (%s)", (CODES, names)
        )
        healed.tried = failed
        healed.lost += accounts.heal(connection, "changing")
        changing.write(0)
        connection.execute("DELETE FROM allowed WHERE path = ANY (%s)", (names,))
        accounts.allow_vectors(connection, names)
        changed = number(connection, "SELECT visrec.recheck('changing')")
        rechecked.tried, rechecked.note = rows.tried, f"{changed:,} changed"
        rechecked.lost += accounts.heal(connection, "changing")
    return [rows, healed, rechecked]


def _write(
    cluster: Cluster, place: int, names: list[str], rng: random.Random, threads: Threads
) -> None:
    first = place * 1_000_000
    with cluster.connect() as connection:
        while not threads.stop.is_set():
            paths = rng.choices(names, k=rng.choice([1, 1, 8]))
            connection.execute(
                "INSERT INTO changing (id, image_path)"
                " SELECT %s + n, path FROM unnest(%s::text[]) WITH ORDINALITY AS p (path, n)",
                (first, paths),
            )
            first += len(paths)
            time.sleep(0.02)  # the files are to change, not the processors to be busy
