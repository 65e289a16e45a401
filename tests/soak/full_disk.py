"""A disk that is full while pictures are copied to it."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.soak import accounts
from tests.soak.cluster import Cluster, Connection
from tests.soak.material import Pictures
from tests.soak.report import Line

WHAT = "rows whose files a full disk cut short, then retried"


@contextmanager
def small_disk(directory: Path, kilobytes: int) -> Iterator[str | None]:
    """A file system of that size at the directory; or why there is none."""
    directory.mkdir(exist_ok=True)
    size = f"size={kilobytes}k,mode=755"
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "soak", directory],
            check=False,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        yield str(error)
        return
    if made.returncode:
        yield "this user may mount nothing: " + " ".join(made.stderr.split())
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def run(cluster: Cluster, pictures: Pictures, seconds: float, seed: int) -> list[Line]:
    """Some rounds, with disks of different sizes; ``seconds`` is far more than they need."""
    line = Line(WHAT)
    rng = random.Random(f"{seed}/full")
    directory = pictures.root / "full"
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE crammed (id bigint PRIMARY KEY, image_path text)")
        connection.execute("SELECT visrec.attach('crammed', model => 'pixels')")
        for _ in range(10):
            with small_disk(directory, rng.randrange(60, 120, 4)) as refused:
                if refused is not None:
                    line.note = refused
                    return [line]
                _cram(connection, directory, pictures, rng, line)
    return [line]


def _cram(
    connection: Connection, directory: Path, pictures: Pictures, rng: random.Random, line: Line
) -> None:
    (directory / "in-the-way").write_bytes(bytes(40_000))
    sources = {f"full/{n}.jpg": pictures.root / path for n, path in enumerate(pictures.good)}
    whole, cut, empty = _copy(directory, sources, rng)
    codes = {name: ["truncated", "not_an_image"] for name in cut} | {
        name: ["not_an_image"] for name in empty
    }
    missing = sources.keys() - whole - codes.keys()
    codes |= {name: ["missing"] for name in missing}
    connection.execute("TRUNCATE crammed")
    connection.execute("DELETE FROM allowed WHERE path LIKE 'full/%'")
    accounts.allow_vectors(connection, whole)
    for name, reasons in codes.items():
        accounts.allow_failures(connection, name, reasons)
    connection.execute(
        "INSERT INTO crammed (id, image_path)"
        " SELECT n, path FROM unnest(%s::text[]) WITH ORDINALITY AS p (path, n)",
        (list(sources),),
    )
    line.tried += len(codes)
    if not cut and not empty:
        line.lost.append("no file was cut short: the disk was not full")
    line.lost += accounts.faults(connection, "crammed")

    (directory / "in-the-way").unlink()
    finished = []
    for name in [*cut, *empty, *missing]:
        try:
            (directory.parent / name).write_bytes(sources[name].read_bytes())
        except OSError:
            (directory.parent / name).unlink()  # there is room again, but not for all
            connection.execute("DELETE FROM crammed WHERE image_path = %s", (name,))
        else:
            finished.append(name)
    connection.execute("DELETE FROM allowed WHERE path LIKE 'full/%' AND code IS NOT NULL")
    accounts.allow_vectors(connection, finished)
    line.lost += accounts.heal(connection, "crammed")


def _copy(
    directory: Path, sources: dict[str, Path], rng: random.Random
) -> tuple[set[str], set[str], set[str]]:
    """Copy until the disk is full: which are there as a whole, cut short, and empty."""
    whole: set[str] = set()
    cut: set[str] = set()
    empty: set[str] = set()
    for name, source in sources.items():
        if len(cut) + len(empty) == 3:
            break
        data, target = source.read_bytes(), directory.parent / name
        try:
            with target.open("wb", buffering=0) as file:
                written = 0
                while written < len(data):
                    written += file.write(data[written : written + 1024]) or 0
            whole.add(name)
        except OSError:
            (cut if target.stat().st_size else empty).add(name)
    return whole, cut, empty
