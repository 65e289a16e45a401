"""The pictures: good ones, and paths that fail, each for a known reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import draw_pictures
from tests.soak import accounts
from tests.soak.cluster import Connection


@dataclass(frozen=True)
class Pictures:
    """Paths relative to ``root``; ``bad`` with the code of each one's failure."""

    root: Path
    good: list[str]
    bad: dict[str, str]

    @property
    def paths(self) -> list[str]:
        return [*self.good, *self.bad]


def draw(root: Path, count: int = 36) -> Pictures:
    """Drawn pictures, and damaged ones beside them."""
    drawn = draw_pictures.draw_all(root / "good", count)
    half = drawn[0].read_bytes()
    (root / "bad").mkdir(exist_ok=True)
    (root / "bad" / "half.jpg").write_bytes(half[: len(half) // 2])
    (root / "bad" / "text.jpg").write_text("no picture\n" * 100, encoding="ascii")
    (root / "bad" / "empty.jpg").write_bytes(b"")
    bad = {
        "bad/half.jpg": "truncated",
        "bad/text.jpg": "not_an_image",
        "bad/empty.jpg": "not_an_image",
        "bad/nowhere.jpg": "missing",
        "../elsewhere.jpg": "outside_roots",
    }
    return Pictures(root, [str(path.relative_to(root)) for path in drawn], bad)


def prepare(connection: Connection, pictures: Pictures) -> None:
    """The extension, and what rows with these pictures may end as."""
    connection.execute("CREATE EXTENSION IF NOT EXISTS visrec CASCADE")
    connection.execute("SELECT visrec.set('image_roots', %s)", (str(pictures.root),))
    accounts.make(connection)
    accounts.allow_vectors(connection, pictures.good)
    for path, code in pictures.bad.items():
        accounts.allow_failures(connection, path, [code])
