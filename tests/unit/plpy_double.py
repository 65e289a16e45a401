"""A double of plpy: it answers the backend's statements, and keeps a table in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from PIL import Image

ATTACHMENT = 4711
Rows = list[dict[str, Any]]


class QueryCanceled(Exception):
    """What PL/Python raises inside ``plpy.execute`` when the statement is canceled."""


class Server:
    """A server with one table of images; a row's ``source`` is its key as a number."""

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
        return [] if name == "SELECT 1" else getattr(self, name)(*values)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def _terms(self, attachment: int) -> Rows:
        assert attachment == ATTACHMENT
        [model] = self._model_terms(self.model)
        return [
            {
                "model": self.model,
                "directory": model["directory"],
                "registered": model["fingerprint"],
                "fingerprint": self.fingerprint,
                "holds_bytes": self.holds_bytes,
                "settings": model["settings"],
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
        row = {"id": key, "path": path, "bytes": data, "size": size, "source": int(key)}
        return {**row, "stale": False}

    def due(self, max_bytes: int) -> Rows:
        return [
            self.row(key, max_bytes)
            for key, image in self.images.items()
            if key not in self.vectors and image is not None
        ]

    def _rows(self, attachment: int, keys: list[str], lock: bool, max_bytes: int) -> Rows:
        assert attachment == ATTACHMENT
        self.batches.append(keys)
        self.locks.append(lock)
        return [row for row in self.due(max_bytes) if row["id"] in keys]

    def _due_rows(self, attachment: int, after: str | None, count: int, max_bytes: int) -> Rows:
        assert attachment == ATTACHMENT
        rows = [r for r in self.due(max_bytes) if after is None or int(r["id"]) > int(after)]
        return rows[:count]

    def _image_rows(self, attachment: int, keys: list[str], max_bytes: int) -> Rows:
        assert attachment == ATTACHMENT
        self.batches.append(keys)
        return [
            self.row(key, max_bytes)
            for key in keys
            if self.images.get(key) is not None
        ]  # fmt: skip

    def _store(self, attachment: int, ids: list[str], *columns: list[Any]) -> Rows:
        assert attachment == ATTACHMENT
        self.stored.append(ids)
        for key, source, vector, stamp, code, message, image in zip(ids, *columns, strict=True):
            assert key not in self.vectors, "stored twice"
            assert source == int(key)
            if vector is not None:
                assert (code, message, image) == (None, None, None)
                self.vectors[key], self.stamps[key] = vector, stamp
                self.failures.pop(key, None)
            else:
                assert stamp is None
                self.failures[key] = {"image": image, "code": code, "message": message}
        return []


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 100, 200)).save(stream, "PNG")
    return stream.getvalue()


def many(count: int) -> dict[str, bytes]:
    return {str(key): png(key % 250) for key in range(1, count + 1)}
