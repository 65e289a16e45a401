"""Whether what is near looks alike: photographs with labels, by a real model where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import database, material
from benchmarks.report import Figure

MODEL = "mobilenet_v2"
K = 5


def measure(shared: Path, say: Callable[[str], None]) -> list[Figure]:
    """Precision at 5 by ``visrec.evaluate`` and by numpy; nothing without photographs."""
    data = material.test_data()
    if not ((data / "clothing").is_dir() and (data / MODEL).is_dir()):
        say(f"  no photographs with labels, or no {MODEL}: left out")
        return []
    shutil.copytree(data / "clothing", shared / "clothing")
    shutil.copytree(data / MODEL, shared / MODEL)
    paths = sorted(str(p.relative_to(shared / "clothing")) for p in shared.glob("clothing/*/*.jpg"))
    with database.connect() as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("SELECT visrec.set('image_roots', %s)", (str(shared / "clothing"),))
        connection.execute("SELECT visrec.register_model(%s, %s)", (MODEL, str(shared / MODEL)))
        connection.execute(
            "CREATE TABLE labelled (id bigint PRIMARY KEY, image_path text, label text)"
        )
        connection.execute("SELECT visrec.attach('labelled', model => %s)", (MODEL,))
        connection.execute(
            "INSERT INTO labelled SELECT n, path, split_part(path, '/', 1)"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS p (path, n)",
            (paths,),
        )
        rows = connection.execute("SELECT label, content_vector::real[] FROM labelled").fetchall()
        [(precision,)] = connection.execute(
            "SELECT \"precision\" FROM visrec.evaluate('labelled', 'label', %s)"
            " WHERE label IS NULL",
            ([K],),
        ).fetchall()
        connection.execute("DROP TABLE labelled")
    exact = _precision(np.array([label for label, _ in rows]), np.array([v for _, v in rows]))
    of = f"precision@{K} of {MODEL} on {len(rows)} photographs"
    return [
        Figure(f"{of}, by visrec.evaluate", precision, 0.74, False, "", [precision]),
        Figure(f"{of}: what numpy finds otherwise", abs(precision - exact), 0.0005, True, "",
               [precision, exact]),
    ]  # fmt: skip


def _precision(labels: np.ndarray, vectors: np.ndarray) -> float:
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    best = np.argsort(-cosines, axis=1)[:, :K]
    return float((labels[best] == labels[:, None]).mean())
