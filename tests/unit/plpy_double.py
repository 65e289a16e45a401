"""A double of plpy: it answers the backend's statements, and keeps a table in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from PIL import Image

ATTACHMENT = 4711
NAMES = "(4711,posts)"
"""What stands for a ``visrec._names`` as text."""
LOCKED = " FOR NO KEY UPDATE SKIP LOCKED"
Rows = list[dict[str, Any]]


class QueryCanceled(Exception):
    """What PL/Python raises inside ``plpy.execute`` when the statement is canceled."""


class Server:
    """A server with one table of images; a row's ``source`` is its key as a number.

    The statements for its rows are called after the method that answers them.
    """

    def __init__(
        self, images: Mapping[str, str | bytes | None] | None = None, holds_bytes: bool = True
    ) -> None:
        self.images = dict(images or {})
        self.holds_bytes = holds_bytes
        self.vectors: dict[str, str] = {}
        self.stamps: dict[str, int | None] = {}
        self.failures: dict[str, dict[str, Any]] = {}
        self.models: dict[str, str | None] = {"pixels": None}
        self.model = "pixels"
        self.fingerprint = "pixels-1"
        self.settings = {
            "image_roots": "",
            "max_image_bytes": "1000000",
            "max_image_pixels": "1000000",
            "max_image_seconds": "20",
            "encoder": "in_process",
            "encoder_idle_seconds": "600",
        }
        self.spiexceptions = SimpleNamespace(QueryCanceled=QueryCanceled)
        self.prepared: list[str] = []
        self.executed: list[str] = []
        self.batches: list[list[str]] = []
        self.stored: list[list[str]] = []
        self.warnings: list[str] = []
        self.cancel_at: int | None = None
        self.locks: list[bool] = []

    def prepare(self, query: str, types: Sequence[str] = ()) -> str:
        assert query == "SELECT 1" or "visrec." in query
        assert all(name.startswith("pg_catalog.") for name in types)
        assert query.count("$") == len(types)
        self.prepared.append(query)
        return query

    def execute(self, plan: str, values: Sequence[Any] = ()) -> Rows:
        if len(self.executed) == self.cancel_at:
            raise QueryCanceled("canceling statement due to statement timeout")
        name = plan.partition("visrec.")[2].partition("(")[0] or plan
        self.executed.append(name)
        if name == "rows":
            self.locks.append(plan.endswith(LOCKED))
        return [] if name == "SELECT 1" else getattr(self, name)(*values)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def _terms(self, names: str) -> Rows:
        assert names == NAMES
        [model] = self._model_terms(self.model)
        return [
            {
                "id": ATTACHMENT,
                "model": self.model,
                "directory": model["directory"],
                "registered": model["fingerprint"],
                "fingerprint": self.fingerprint,
                "holds_bytes": self.holds_bytes,
                "settings": model["settings"],
                "rows": "SELECT visrec.rows($1, $2)",
                "due_rows": "SELECT visrec.due_rows($1, $2)" + LOCKED,
                "next_rows": "SELECT visrec.next_rows($1, $2, $3)" + LOCKED,
                "image_rows": "SELECT visrec.image_rows($1, $2)",
                "give": "UPDATE visrec.give($1, $2, $3, $4)",
                "same": "SELECT id FROM visrec.same($1, $2, $3, $4)",
                "take": "UPDATE visrec.take($1, $2, $3, $4)",
                "has_failures": bool(self.failures),
            }
        ]

    def _model_terms(self, name: str) -> Rows:
        registered = name in self.models
        return [
            {
                "directory": self.models.get(name),
                "fingerprint": f"{name}-1" if registered else None,
                "settings": json.dumps(self.settings),
            }
        ]

    def row(self, key: str, max_bytes: int) -> dict[str, Any]:
        image = self.images[key]
        if isinstance(image, str):
            size, path, data = len(image.encode()), image[:4097], None
        else:
            assert image is not None
            size, path, data = len(image), None, image if len(image) <= max_bytes else None
        stamp = None if data is None else hash(data)
        return {
            **{"id": key, "path": path, "bytes": data, "size": size},
            **{"source": int(key), "stamp": stamp},
        }

    def due(self, max_bytes: int) -> Rows:
        return [
            self.row(key, max_bytes)
            for key, image in self.images.items()
            if key not in self.vectors and image is not None
        ]

    def rows(self, max_bytes: int, keys: list[str]) -> Rows:
        self.batches.append(keys)
        return [row for row in self.due(max_bytes) if row["id"] in keys]

    def due_rows(self, max_bytes: int, count: int) -> Rows:
        return self.due(max_bytes)[:count]

    def next_rows(self, max_bytes: int, count: int, after: str) -> Rows:
        return [row for row in self.due(max_bytes) if int(row["id"]) > int(after)][:count]

    def image_rows(self, max_bytes: int, keys: list[str]) -> Rows:
        self.batches.append(keys)
        return [
            self.row(key, max_bytes)
            for key in keys
            if self.images.get(key) is not None
        ]  # fmt: skip

    def _record_outcome(self, attachment: int, ids: list[str], *columns: list[Any]) -> Rows:
        assert attachment == ATTACHMENT
        for key, code, message, image in zip(ids, *columns, strict=True):
            if code is not None:
                self.failures[key] = {"image": image, "code": code, "message": message}
            else:
                assert (message, image) == (None, None)
                self.failures.pop(key, None)
        return []

    def same(self, ids: list[str], *_: list[Any]) -> Rows:
        return [{"id": key} for key in ids]

    def give(self, ids: list[str], *columns: list[Any]) -> Rows:
        self.stored.append(ids)
        return self.write(ids, *columns, given=True)

    def take(self, ids: list[str], *columns: list[Any]) -> Rows:
        return self.write(ids, *columns, given=False)

    def write(self, ids: list[str], *columns: list[Any], given: bool) -> Rows:
        meant = 0
        for key, source, vector, stamp in zip(ids, *columns, strict=True):
            assert source == int(key)
            assert (vector is None) == (key in self.failures), "recorded before it is written"
            image = self.images[key]
            if isinstance(image, bytes):  # as it was read; not read where it is too large
                assert stamp == hash(image) or vector is None
            elif vector is None:
                assert stamp is None
            if (vector is not None) != given:
                continue
            meant += 1
            if given:
                assert key not in self.vectors, "stored twice"
                self.vectors[key], self.stamps[key] = vector, stamp
        assert meant, "a statement for no row"
        return []


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 100, 200)).save(stream, "PNG")
    return stream.getvalue()


def many(count: int) -> dict[str, bytes]:
    return {str(key): png(key % 250) for key in range(1, count + 1)}
