"""Rows of attached tables: each gets its vector, or the reason why it has none."""

from __future__ import annotations

import json

from visrec_db import errors
from visrec_db.backend import session
from visrec_db.backend.in_process import Model
from visrec_db.results import Embedding
from visrec_db.service import protocol

BATCH_SIZE, BYTES_BATCH_SIZE = 128, 16
"""Rows that a trigger reads together, and as many ahead; fewer where they hold the images."""

MAX_SMALL_ROWS = 8
"""A statement of more rows is bulk work: single rows of other sessions go before it."""

TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    from collections.abc import Generator, Sequence
    from typing import Any

    from visrec_db.backend.session import Embedder, Plpy, Result, Row


@session.entry_point
def embed_rows(
    plpy: Plpy, names: str, keys: Sequence[str], stop: bool, lock: bool
) -> dict[str, Any]:
    """Embeds those of the rows with these keys that need it, and accounts for each.

    ``names`` is for ``visrec._terms``. With ``stop`` it ends at the first failure. Returns
    ``seen``, ``embedded``,
    ``failed`` and ``first_failure``.
    """
    table = _Table(plpy, names, bulk=len(keys) > MAX_SMALL_ROWS)
    outcome = _Outcome()
    size = BYTES_BATCH_SIZE if table.holds_bytes else BATCH_SIZE
    ahead: list[Row] | None = None
    for start in range(0, len(keys), size):
        rows = table.read(keys[start : start + size], lock) if ahead is None else ahead
        following = keys[start + size : start + 2 * size]
        ahead = table.read(following, lock) if following and not table.holds_bytes else None
        outcome.seen += len(rows)
        table.embed_and_store(rows, outcome, ahead or (), stop=stop)
        if outcome.failed and stop:
            break
    return outcome.as_dict()


@session.entry_point
def backfill_batch(
    plpy: Plpy, names: str, after: str | None, size: int, following: int
) -> dict[str, Any]:
    """Embeds the next rows that need it in the order of their keys, after the key ``after``.

    The encoder goes on with as many ``following`` rows, for the next call. They are locked too, so
    that sessions that backfill together do not work on the same rows. Returns what ``embed_rows``
    does, and as ``last`` the last key seen, None when no row was left. An encoder that cannot work
    is its ``error``, recorded for no row.
    """
    table = _Table(plpy, names, bulk=True, backfills=True)
    table.continues = after is not None
    outcome = _Outcome()
    found = table.read_due(after, size + (0 if table.holds_bytes else following))
    rows = found[:size]
    outcome.seen = len(rows)
    failed: errors.EncoderError | None = None
    try:
        table.embed_and_store(rows, outcome, found[size:], record_encoder_errors=False)
    except errors.EncoderError as error:
        failed = error
    return {
        **outcome.as_dict(),
        "last": rows[-1]["id"] if rows else None,
        "error": failed and session.described(failed),
    }


class _Outcome:
    """What became of the rows of one call."""

    def __init__(self) -> None:
        self.seen = 0
        self.embedded = 0
        self.failed = 0
        self.first_failure: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return self.__dict__


class _Table:
    """An attached table: its terms, read once a call, and what is done with its rows."""

    def __init__(self, plpy: Plpy, names: str, bulk: bool, backfills: bool = False) -> None:
        self._plpy = plpy
        self._bulk = bulk
        [self._terms] = session.TERMS.run(plpy, names)
        self._run = ("backfill", self._terms["id"]) if backfills else None
        self._settings: dict[str, str] = json.loads(self._terms["settings"])
        self._max_bytes: int = protocol.policy(self._settings)["max_bytes"]
        self.holds_bytes: bool = self._terms["holds_bytes"]
        self._embedder: Embedder | None = None
        self._broken: errors.EncoderError | None = None
        self.continues = False  # whether the encoder was told of the next rows before

    def read(self, keys: Sequence[str], lock: bool) -> list[Row]:
        """Returns those of the rows that need a vector."""
        text = self._terms["rows"] + (" FOR NO KEY UPDATE SKIP LOCKED" if lock else "")
        return session.of_table(text, "int8", "text[]").run(self._plpy, self._max_bytes, list(keys))

    def read_due(self, after: str | None, count: int) -> list[Row]:
        """Returns the next rows that need a vector, locked until the transaction ends."""
        if after is None:
            first = session.of_table(self._terms["due_rows"], "int8", "int8")
            return first.run(self._plpy, self._max_bytes, count)
        following = session.of_table(self._terms["next_rows"], "int8", "int8", "text")
        return following.run(self._plpy, self._max_bytes, count, after)

    def embed_and_store(
        self,
        rows: Sequence[Row],
        outcome: _Outcome,
        following: Sequence[Row] = (),
        *,
        stop: bool = False,
        record_encoder_errors: bool = True,
    ) -> None:
        """Gives each row its vector, or its line in ``visrec.failure``; counts both.

        The encoder goes on with those ``following``. Rows are written while it works on those after
        them. With ``stop`` it ends at the first failure.
        """
        images = self._images(rows)
        ahead = [image for image in self._images(following) if isinstance(image, str)]
        done = 0
        slices = session.with_errors(images, lambda some: self._embed(some, ahead))
        try:
            for results in slices:
                self._store(rows[done : done + len(results)], results, outcome)
                done += len(results)
                if stop and outcome.failed:
                    return
        except errors.EncoderError as error:
            self._broken = error
            if not record_encoder_errors:
                raise
            left = [i if isinstance(i, errors.VisrecError) else error for i in images[done:]]
            self._store(rows[done:], left, outcome)
        finally:
            slices.close()  # after a cancel, too, while a statement wrote rows

    def _images(self, rows: Sequence[Row]) -> list[str | bytes | errors.ImageError]:
        return [session.image_of(row, self._max_bytes) for row in rows]

    def _embed(self, images: list[Any], ahead: Sequence[str]) -> Generator[list[Any]]:
        if not images:
            return
        if self._broken is not None:  # do not try for each batch what just failed for the first
            raise self._broken
        if self._embedder is None:
            self._embedder = self._connect()
        continues, self.continues = self.continues, True
        yield from self._embedder.embed_images(images, ahead, continues)

    def _connect(self) -> Embedder:
        terms = self._terms
        if terms["registered"] is None:
            raise session.not_registered(terms["model"])
        if terms["registered"] != terms["fingerprint"]:
            raise errors.EncoderUnavailable(
                f'model "{terms["model"]}" has other weights than the table was attached with',
                hint="Register the earlier weights again; or detach with drop_vectors => true,"
                " and attach.",
            )
        model = Model(terms["model"], terms["directory"], terms["fingerprint"])
        return session.connect(self._plpy, model, self._settings, self._bulk, self._run)

    def _store(self, rows: Sequence[Row], results: Sequence[Result], outcome: _Outcome) -> None:
        ids, sources, vectors, stamps, codes, messages, paths = _columns(rows, results)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, errors.VisrecError):
                failure = {**session.described(result, row["path"]), "id": row["id"]}
                outcome.first_failure = outcome.first_failure or failure
                break
        failed = len(ids) - codes.count(None)
        if failed or self._terms["has_failures"]:
            self._record(ids, sources, vectors, stamps, codes, messages, paths)
        for wanted, text in ((failed, "take"), (len(ids) - failed, "give")):
            if wanted:
                statement = session.of_table(
                    self._terms[text], "text[]", "int8[]", "text[]", "int8[]"
                )
                statement.run(self._plpy, ids, sources, vectors, stamps)
        outcome.embedded += len(ids) - failed
        outcome.failed += failed

    def _record(self, ids: list[str], *columns: list[Any]) -> None:
        """Records failures, and that there is none, of rows that are still as they were read."""
        arrays = (ids, *columns[:3])
        statement = session.of_table(self._terms["same"], "text[]", "int8[]", "text[]", "int8[]")
        same = {row["id"] for row in statement.run(self._plpy, *arrays)}
        kept = [n for n, key in enumerate(ids) if key in same]
        chosen = [[column[n] for n in kept] for column in (ids, *columns[3:])]
        session.RECORD.run(self._plpy, self._terms["id"], *chosen)


def _columns(rows: Sequence[Row], results: Sequence[Result]) -> list[list[Any]]:
    """Returns keys, sources, vectors, stamps, codes, messages and paths as messages show them."""
    lines = [
        (row["id"], row["source"], result.vector, _stamp(row, result), None, None, None)
        if isinstance(result, Embedding)
        else (
            *(row["id"], row["source"], None, row["stamp"]),
            *(result.code, result.message, session.shown(row["path"])),
        )
        for row, result in zip(rows, results, strict=True)
    ]
    return [list(column) for column in zip(*lines, strict=True)] if lines else [[]] * 7


def _stamp(row: Row, result: Embedding) -> int | None:
    """Returns the stamp of the bytes as they were read, or that of the file."""
    return result.stamp if row["stamp"] is None else row["stamp"]
