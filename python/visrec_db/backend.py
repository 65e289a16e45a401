"""Where a row is accounted for: the only module that talks to PostgreSQL (``plpy``).

Each public function serves one PL/Python wrapper. What goes wrong with an image or a model goes
back in the outcome (JSON) and PL/pgSQL raises it, which alone gives clean messages with DETAIL
and HINT. A cancel is raised by the server inside ``plpy.execute`` and caught nowhere here.
"""

from __future__ import annotations

import json

from visrec_db import client, errors, in_process, statements
from visrec_db.in_process import InProcess, Model

BATCH_SIZE, BATCH_OF_BYTES = 128, 16
"""Rows that a trigger reads together, and as many ahead; fewer where they hold the images."""

FEW = 8
"""A statement of more rows is bulk work: single rows of other sessions go before it."""

SHOWN = 500
"""Characters of an image's path kept in ``visrec.failure`` and in messages."""


TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Protocol

    from visrec_db.statements import Plpy

    class Embedder(Protocol):
        """The seam: the encoder process's client, or an encoder in this process."""

        def embed_images(
            self, sources: Sequence[Any], ahead: Sequence[str] = ..., continues: bool = ...
        ) -> Iterator[list[str | errors.ImageError]]: ...
        def embed_text(self, query: str) -> str: ...
        def dimension(self) -> int: ...


def write_vectors(plpy: Plpy, relation: int, config: str, ids: Sequence[str]) -> str:
    """Embed the rows with these keys that have no vector yet, and account for each.

    With ``on_error`` = raise it stops at the first failure. Returns the ``Outcome`` as JSON.
    """
    table = _Table(plpy, relation, config, bulk=len(ids) > FEW)
    outcome = Outcome()
    size = BATCH_OF_BYTES if table.holds_images else BATCH_SIZE
    ahead: list[Mapping[str, Any]] | None = None
    for start in range(0, len(ids), size):
        rows = table.read(ids[start : start + size]) if ahead is None else ahead
        following = ids[start + size : start + 2 * size]
        ahead = table.read(following) if following and not table.holds_images else None
        outcome.seen += len(rows)
        table.embed_and_store(rows, outcome, ahead or ())
        if outcome.failed and table.config["on_error"] == "raise":
            break
    return outcome.as_json()


def backfill_batch(
    plpy: Plpy, relation: int, config: str, after: str | None, size: int, *, following: int = 0
) -> str:
    """Embed the next rows without a vector in the order of their keys, after the key ``after``.

    The encoder goes on with as many ``following`` rows, for the next call. They are locked too, so
    that sessions that backfill together do not work on the same rows; rows locked by others are
    passed over. Returns the ``Outcome`` as JSON; its ``last`` is the last key seen, null when no
    row was left. An encoder that cannot work is its ``error``, recorded for no row.
    """
    table = _Table(plpy, relation, config, bulk=True)
    outcome = Outcome()
    table.continues = after is not None
    found = table.read_next(after, size + (0 if table.holds_images else following))
    rows = found[:size]
    if rows:
        table.embed_and_store(rows, outcome, found[size:], record_encoder_errors=False)
        outcome.last = rows[-1]["id"]
    return outcome.as_json()


def embed(plpy: Plpy, model: str, path: str | None, image: bytes | None, query: str | None) -> str:
    """One vector for what is in no table: an image by its path or bytes, or a text.

    Returns JSON: ``{"embedding": text}`` or ``{"error": …}``.
    """
    try:
        embedder = _connect(plpy, model, bulk=False)
        if query is not None:
            result: str | errors.VisrecError = embedder.embed_text(query)
        else:
            [[result]] = embedder.embed_images([image if path is None else path])
    except errors.EncoderError as error:
        result = error
    if isinstance(result, str):
        return json.dumps({"embedding": result})
    return json.dumps({"error": _as_dict(result, _shown(path))})


def inspect_model(plpy: Plpy, name: str, directory: str) -> str:
    """Load the model in ``directory``; JSON with its ``fingerprint`` and ``dimension``."""
    from visrec_db import models  # noqa: PLC0415 - only here

    try:
        fingerprint = models.fingerprint(directory)
        embedder = _embedder(plpy, Model(name, directory, fingerprint), bulk=False)
        dimension = embedder.dimension()
    except errors.EncoderError as error:
        return json.dumps({"error": _as_dict(error, None)})
    return json.dumps({"fingerprint": fingerprint, "dimension": dimension})


def duplicate_kinds(
    plpy: Plpy, relation: int, config: str, first: Sequence[str], second: Sequence[str]
) -> str:
    """For each pair of rows by their keys: ``exact``, ``near`` or ``similar``.

    A picture that cannot be read makes its pairs similar and harms no other. Only the kinds leave
    this function, no digest. Returns JSON: ``{"kinds": [text, …]}`` or ``{"error": …}``.
    """
    from visrec_db import duplicates  # noqa: PLC0415 - only here

    table = _Table(plpy, relation, config, bulk=True)
    ids = sorted({*first, *second})
    size = BATCH_OF_BYTES if table.holds_images else BATCH_SIZE
    found: dict[str, duplicates.Picture] = {}
    try:
        policy = in_process.policy(_settings(plpy))
        embedder = _embedder(plpy, Model("looks", None, duplicates.LOOKS), bulk=True)
        for start in range(0, len(ids), size):
            rows = table.read_images(ids[start : start + size])
            images = [row["image"] for row in rows]
            looks = [look for some in embedder.embed_images(images) for look in some]
            pictures = duplicates.pictures(images, looks, policy, lambda: _checkpoint(plpy))
            found |= zip([row["id"] for row in rows], pictures, strict=True)
    except errors.EncoderError as error:
        return json.dumps({"error": _as_dict(error, None)})
    unknown = duplicates.Picture()
    pairs = [
        (found.get(a, unknown), found.get(b, unknown)) for a, b in zip(first, second, strict=True)
    ]
    return json.dumps({"kinds": [duplicates.kind(a, b) for a, b in pairs]})


def principal_components(plpy: Plpy, sample: bytes, dimension: int, dims: int) -> str:
    """The first ``dims`` principal components of vectors, given as big-endian float32.

    Returns JSON: what ``reduction.parse_answer`` gives, or ``{"error": …}``.
    """
    from visrec_db import reduction  # noqa: PLC0415 - only here

    request = reduction.request(sample, dimension, dims)
    try:
        encoder = _embedder(plpy, Model("reduction", None, reduction.REDUCTION), bulk=True)
        return json.dumps(reduction.parse_answer(encoder.embed_text(request), dimension))
    except errors.EncoderError as error:
        return json.dumps({"error": _as_dict(error, None)})


class Outcome:
    """What became of the rows of one call."""

    def __init__(self) -> None:
        self.seen = 0
        self.embedded = 0
        self.failed = 0
        self.first_failure: dict[str, Any] | None = None
        self.last: str | None = None
        self.error: dict[str, Any] | None = None

    def as_json(self) -> str:
        return json.dumps(self.__dict__)


class _Table:
    """An attached table: its quoted names, read once a call, and what is done with its rows."""

    def __init__(self, plpy: Plpy, relation: int, config: str, bulk: bool) -> None:
        self._plpy = plpy
        self._bulk = bulk
        self._relation = relation
        self.config = json.loads(config)
        [names] = statements.NAMES.run(plpy, relation, config)
        if names["table"] is None:
            raise LookupError("a column this table was attached with is gone: attach it again")
        if "key_text" not in names:  # the extension is not yet updated from 0.1.0
            key_text, unembedded = f"t.{names['key']}::text", f"t.{names['vector']} IS NULL"
            names = {**names, "key_text": key_text, "unembedded": unembedded, "source": None}
        set_source, no_source = "", ""
        if names["source"] is not None:
            set_source = f", {names['source']} = {names['source_value']}"
            no_source = f", {names['source']} = NULL"
        self._names = {**names, "set_source": set_source, "no_source": no_source}
        self.holds_images = self._names["image_type"] == "bytea"
        self._embedder: Embedder | None = None
        self._broken: errors.EncoderError | None = None
        self.continues = False  # whether the encoder was told of the next rows before

    def read(self, ids: Sequence[str]) -> list[Mapping[str, Any]]:
        """``id`` (text) and ``image`` of those of the rows that have no vector."""
        statement = statements.READ_AND_LOCK if self.config.get("lock") else statements.READ
        return list(statement.run(self._plpy, list(ids), names=self._names))

    def read_images(self, ids: Sequence[str]) -> list[Mapping[str, Any]]:
        """``id`` (text) and ``image`` of those of the rows that have an image."""
        return list(statements.READ_IMAGES.run(self._plpy, list(ids), names=self._names))

    def read_next(self, after: str | None, count: int) -> list[Mapping[str, Any]]:
        """The next rows that have an image and no vector, locked until the transaction ends.

        Also those with the vector of another image or model: they are ``stale``.
        """
        if after is None:
            return list(statements.READ_FIRST.run(self._plpy, count, names=self._names))
        return list(statements.READ_NEXT.run(self._plpy, after, count, names=self._names))

    def embed_and_store(
        self,
        rows: Sequence[Mapping[str, Any]],
        outcome: Outcome,
        following: Sequence[Mapping[str, Any]] = (),
        record_encoder_errors: bool = True,
    ) -> None:
        """Give each row its vector, or its line in ``visrec.failure``; count both.

        The encoder goes on with those ``following``. Rows are written while it works on those after
        them. With ``on_error`` = raise it stops at the first failure.
        """
        self._forget_failures([row["id"] for row in rows if row["image"] is None])
        rest = [row for row in rows if row["image"] is not None]
        ahead = [row["image"] for row in following if isinstance(row["image"], str)]
        try:
            for results in self._embed([row["image"] for row in rest], ahead):
                self._store(rest[: len(results)], results, outcome)
                rest = rest[len(results) :]
                if outcome.failed and self.config["on_error"] == "raise":
                    return
        except errors.EncoderError as error:
            self._broken = error
            if record_encoder_errors:
                self._store(rest, [error] * len(rest), outcome)
            else:
                outcome.error = _as_dict(error, None)

    def _embed(
        self, images: Sequence[Any], ahead: Sequence[str]
    ) -> Iterator[Sequence[str | errors.VisrecError]]:
        if not images:
            return
        if self._broken is not None:  # do not try for each batch what just failed for the first
            raise self._broken
        if self._embedder is None:
            self._embedder = _connect(
                self._plpy, self.config["model"], self._bulk, self.config["fingerprint"]
            )
        continues, self.continues = self.continues, True
        yield from self._embedder.embed_images(images, ahead, continues)

    def _store(
        self,
        rows: Sequence[Mapping[str, Any]],
        results: Sequence[str | errors.VisrecError],
        outcome: Outcome,
    ) -> None:
        vectors: dict[str, str] = {}
        failures: list[tuple[str, str | None, str, str]] = []
        stale = [row["id"] for row in rows if row["stale"]]
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, str):
                vectors[row["id"]] = result
                continue
            shown = _shown(row["image"])
            failures.append((row["id"], shown, result.code, result.message))
            outcome.first_failure = outcome.first_failure or {
                **_as_dict(result, shown),
                "id": row["id"],
            }
        if stale:  # also where the image that the row has now gives none
            statements.TAKE_VECTORS_AWAY.run(self._plpy, stale, names=self._names)
        if vectors:
            statements.STORE.run(
                self._plpy, list(vectors), list(vectors.values()), names=self._names
            )
        self._forget_failures(list(vectors))
        if failures:
            columns = [list(column) for column in zip(*failures, strict=True)]
            statements.RECORD_FAILURES.run(self._plpy, self._relation, *columns)
        outcome.embedded += len(vectors)
        outcome.failed += len(failures)

    def _forget_failures(self, ids: Sequence[str]) -> None:
        if ids:
            statements.FORGET_FAILURES.run(self._plpy, self._relation, list(ids))


def encoder_status(plpy: Plpy) -> str:
    """JSON: what the encoder process says of itself; null where none runs."""
    return json.dumps(client.control("status", lambda: _checkpoint(plpy)))


def encoder_stop(plpy: Plpy) -> bool:
    """End the encoder process; false where none runs. The next call starts another."""
    return client.stop(lambda: _checkpoint(plpy))


def encoder_warm(plpy: Plpy, model: str) -> str:
    """Have the encoder process load a model; JSON with an ``error``, or empty."""
    try:
        _connect(plpy, model, bulk=False).dimension()
    except errors.EncoderError as error:
        return json.dumps({"error": _as_dict(error, None)})
    return "{}"


def _connect(plpy: Plpy, model_name: str, bulk: bool, fingerprint: str | None = None) -> Embedder:
    """The encoder that the administrator's settings choose, with one registered model.

    ``fingerprint``: of the weights that the vectors must be of.
    """
    found = statements.MODEL.run(plpy, model_name)
    if not found:
        raise errors.EncoderUnavailable(
            f'the model "{model_name}" is not registered',
            hint="An administrator can register it: SELECT visrec.register_model(…).",
        )
    if fingerprint not in (None, found[0]["fingerprint"]):
        raise errors.EncoderUnavailable(
            f'the model "{model_name}" has other weights than the table was attached with',
            hint="Register the weights of before; or detach with drop_vectors => true, and attach.",
        )
    return _embedder(plpy, Model(**found[0]), bulk)


def _settings(plpy: Plpy) -> dict[str, str]:
    return {row["name"]: row["value"] for row in statements.SETTINGS.run(plpy)}


def _embedder(plpy: Plpy, model: Model, bulk: bool) -> Embedder:
    settings = _settings(plpy)

    def checkpoint() -> None:
        _checkpoint(plpy)

    if settings["encoder"] == "in_process":
        return InProcess(model, settings, checkpoint)
    try:
        client.connect(checkpoint, settings["encoder_idle_seconds"])
    except errors.EncoderUnavailable as error:
        if settings["encoder"] == "shared":
            raise
        _warn_once(plpy, f"visrec embeds in this session itself: {error.message}")
        return InProcess(model, settings, checkpoint)
    return client.Shared(model, settings, checkpoint, bulk)


_warned: set[str] = set()


def _warn_once(plpy: Plpy, message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        plpy.warning(message)


def _checkpoint(plpy: Plpy) -> None:
    """A point where a cancel or statement_timeout takes effect (1.7 µs)."""
    statements.NOTHING.run(plpy)


def _shown(image: Any) -> str | None:
    """A path as messages show it; an image given as bytes has none."""
    if not isinstance(image, str):
        return None
    return image if len(image) <= SHOWN else image[: SHOWN - 1] + "…"


def _as_dict(error: errors.VisrecError, image: str | None) -> dict[str, Any]:
    return {
        "code": error.code,
        "sqlstate": error.sqlstate,
        "message": error.message,
        "hint": error.hint,
        "image": image,
    }
