"""What the database is measured against: the usual script, and the encoder without a database."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgvector.psycopg import register_vector
from PIL import Image

from benchmarks.database import Connection
from visrec_db.pictures.files import Policy
from visrec_db.results import Embedding
from visrec_db.service import scheduler


class UsualScript:
    """For each new post: encode one opened image, one UPDATE, one commit. All defaults, fp32."""

    def __init__(self, connection: Connection, model: Path) -> None:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - seconds

        self._model = SentenceTransformer(str(model))
        self._connection = connection
        register_vector(connection)
        connection.execute("DROP TABLE IF EXISTS script")
        connection.execute(
            "CREATE TABLE script (id bigint PRIMARY KEY, image_path text, vector vector(512))"
        )
        connection.execute("CREATE INDEX ON script USING hnsw (vector vector_cosine_ops)")

    def run(self, files: Sequence[Path]) -> list[float]:
        """Seconds for each picture."""
        self._connection.execute("TRUNCATE script")
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO script (id, image_path) VALUES (%s, %s)",
                [(number, str(file)) for number, file in enumerate(files)],
            )
        seconds = []
        for number, file in enumerate(files):
            start = time.perf_counter()
            with self._connection.transaction():
                vector = self._model.encode(Image.open(file))
                self._connection.execute(
                    "UPDATE script SET vector = %s WHERE id = %s", (vector, number)
                )
            seconds.append(time.perf_counter() - start)
        return seconds


class EncoderAlone:
    """The encoder process's own model and scheduler, in this process: no socket, no database."""

    def __init__(self, model: Path, root: Path) -> None:
        self._policy = Policy((str(root),), 1 << 30, 1 << 30)
        self._model = scheduler.LazyEncoder(str(model))
        self.encoder: Any = self._model.get()
        self._scheduler = scheduler.Scheduler(decoders=max(2, len(os.sched_getaffinity(0))))

    def run(self, paths: Sequence[str]) -> float:
        """Seconds until all the pictures have vectors."""
        done = threading.Semaphore(0)
        start = time.perf_counter()
        request = scheduler.Request(self._model, paths, self._policy, True, done.release)
        self._scheduler.submit(request)
        for _ in paths:
            done.acquire()
        seconds = time.perf_counter() - start
        wrong = [result for result in request.results if not isinstance(result, Embedding)]
        if wrong:
            raise RuntimeError(f"the encoder alone failed: {wrong[0]}")
        return seconds
