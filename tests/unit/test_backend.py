"""Accounting for rows, with a double of plpy that keeps a table and its failures in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visrec_db import backend, encoder, errors, in_process, pixels, statements

RELATION = 4711
NAMES = {
    "table": "public.posts",
    "key": "id",
    "key_type": "bigint",
    "image": "image_path",
    "image_type": "bytea",
    "vector": "content_vector",
    "vector_type": "public.vector",
    "equals": "OPERATOR(pg_catalog.=)",
    "greater": "OPERATOR(pg_catalog.>)",
    "key_text": "t.id::text",
    "source": "content_vector_source",
    "source_value": "visrec._source(t.image_path::text, 7)",
    "unembedded": "(t.content_vector IS NULL OR …)",
}


class Cancelled(Exception):
    """What the server raises inside ``plpy.execute`` when the statement is cancelled."""


Rows = list[dict[str, Any]]


class Server:
    """A double of ``plpy``: it answers the backend's statements, told apart by what they say."""

    def __init__(self, images: Mapping[str, str | bytes | None] | None = None) -> None:
        self.images = dict(images or {})
        self.vectors: dict[str, str] = {}
        self.failures: dict[str, dict[str, Any]] = {}
        self.names: dict[str, str | None] = dict(NAMES)
        self.models: dict[str, str | None] = {"pixels": None}
        self.settings = {
            "image_roots": "",
            "max_image_bytes": "1000000",
            "max_image_pixels": "1000000",
            "max_image_seconds": "20",
            "encoder": "in_process",
            "encoder_idle_seconds": "600",
        }
        self.prepared: list[str] = []
        self.executed: list[str] = []
        self.batches: list[list[str]] = []
        self.cancel_at: int | None = None

    def prepare(self, query: str, types: Sequence[str] = ()) -> str:
        assert "%" not in query, "a name was left open"
        self.prepared.append(query)
        return query

    def execute(self, plan: str, values: Sequence[Any] = ()) -> Rows:
        if len(self.executed) == self.cancel_at:
            raise Cancelled
        answers: dict[str, Callable[..., Rows]] = {
            "visrec._names": lambda *_: [self.names],
            "FROM visrec.model": self.model,
            "FROM visrec.setting": self.all_settings,
            "SELECT 1": lambda: [],
            "ANY (($1)::bigint[])": self.read,
            "ORDER BY": self.read_next,
            "UPDATE public.posts": self.store,
            "DELETE FROM visrec.failure": self.forget,
            "INSERT INTO visrec.failure": self.record,
        }
        [kind] = [mark for mark in answers if mark in plan]
        self.executed.append(kind)
        return answers[kind](*values)

    def model(self, name: str) -> Rows:
        if name not in self.models:
            return []
        return [{"name": name, "directory": self.models[name], "fingerprint": f"{name}-1"}]

    def all_settings(self) -> Rows:
        return [{"name": name, "value": value} for name, value in self.settings.items()]

    def pending(self) -> Rows:
        return [
            {"id": key, "image": image, "stale": False}
            for key, image in self.images.items()
            if key not in self.vectors
        ]

    def read(self, ids: list[str]) -> Rows:
        self.batches.append(ids)
        return [row for row in self.pending() if row["id"] in ids]

    def read_next(self, *values: Any) -> Rows:
        *after, count = values
        rows = [row for row in self.pending() if row["image"] is not None]
        return [row for row in rows if not after or int(row["id"]) > int(after[0])][:count]

    def store(self, ids: list[str], vectors: list[str]) -> Rows:
        self.vectors.update(zip(ids, vectors, strict=True))
        return []

    def forget(self, relation: int, ids: list[str]) -> Rows:
        assert relation == RELATION
        for key in ids:
            self.failures.pop(key, None)
        return []

    def record(self, relation: int, *columns: list[Any]) -> Rows:
        assert relation == RELATION
        for key, image, code, message in zip(*columns, strict=True):
            assert key not in self.failures, "recorded twice"
            self.failures[key] = {"image": image, "code": code, "message": message}
        return []


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of its own: no plan and no model is kept from another test."""
    monkeypatch.setattr(backend, "BATCH_SIZE", 64)
    monkeypatch.setattr(backend, "BATCH_OF_BYTES", 64)
    monkeypatch.setattr(statements, "_plans", {})
    monkeypatch.setattr(in_process, "_encoders", {})
    monkeypatch.setattr(in_process, "add_libraries", lambda: None)


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 100, 200)).save(stream, "PNG")
    return stream.getvalue()


def config(on_error: str = "record", model: str = "pixels") -> str:
    return json.dumps({"on_error": on_error, "model": model, "fingerprint": f"{model}-1"})


def write(server: Server, ids: Sequence[str] | None = None, **options: str) -> dict[str, Any]:
    ids = list(server.images) if ids is None else ids
    return json.loads(backend.write_vectors(server, RELATION, config(**options), ids))


def batch(server: Server, after: str | None, size: int, **options: str) -> dict[str, Any]:
    return json.loads(backend.backfill_batch(server, RELATION, config(**options), after, size))


def many(count: int) -> dict[str, bytes]:
    return {str(key): png(key % 250) for key in range(1, count + 1)}


# Rows of a statement --------------------------------------------------------------------


def test_good_rows_get_vectors_and_bad_ones_a_record() -> None:
    server = Server({"1": png(), "2": b"bad", "3": None, "4": "../x.png", "5": png(9)})
    outcome = write(server)
    assert outcome == {
        "seen": 5,
        "embedded": 2,
        "failed": 2,
        "first_failure": {
            "code": "not_an_image",
            "sqlstate": "22P03",
            "message": "the data is not a picture in a format that is read here",
            "hint": outcome["first_failure"]["hint"],
            "image": None,
            "id": "2",
        },
        "last": None,
        "error": None,
    }
    assert server.vectors.keys() == {"1", "5"}
    for key in ("1", "5"):
        assert len(json.loads(server.vectors[key])) == pixels.DIMENSION
    assert server.vectors["1"] != server.vectors["5"]
    assert {key: row["code"] for key, row in server.failures.items()} == {
        "2": "not_an_image",
        "4": "outside_roots",
    }
    assert (server.failures["2"]["image"], server.failures["4"]["image"]) == (None, "../x.png")


def test_pictures_are_found_under_the_roots_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    server = Server({"1": "x.png"})
    server.settings["image_roots"] = f"/nowhere::{tmp_path}"
    assert write(server)["embedded"] == 1


@pytest.mark.parametrize("roots", ["", ":"])
def test_no_root_does_not_mean_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: str
) -> None:
    (tmp_path / "x.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    server = Server({"1": "x.png"})
    server.settings["image_roots"] = roots
    write(server)
    assert server.failures["1"]["code"] == "outside_roots"


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("max_image_bytes", "3", "too_large"),
        ("max_image_pixels", "3", "bomb"),
        ("max_image_seconds", "0", "timeout"),
    ],
)
def test_limits_come_from_the_settings(setting: str, value: str, code: str) -> None:
    server = Server({"1": png()})
    server.settings[setting] = value
    write(server)
    assert server.failures["1"]["code"] == code


def test_a_database_of_an_earlier_version_lacks_a_setting() -> None:
    server = Server({"1": png()})
    del server.settings["max_image_seconds"]
    write(server)
    assert server.failures == {}


@pytest.mark.parametrize("image", [png(), None], ids=["picture", "none"])
def test_a_picture_or_none_forgets_an_earlier_failure(image: bytes | None) -> None:
    server = Server({"1": image, "2": image})
    server.failures = {key: {} for key in ("1", "9")}
    write(server)
    assert server.failures.keys() == {"9"}


def test_a_row_that_has_a_vector_keeps_it() -> None:
    server = Server({"1": png(), "2": png(5)})
    server.vectors["1"] = "[1]"
    assert write(server)["embedded"] == 1
    assert server.vectors["1"] == "[1]"


def test_rows_are_read_in_batches_and_written_as_they_come() -> None:
    server = Server(many(130))
    assert write(server)["embedded"] == 130
    assert [len(ids) for ids in server.batches] == [64, 64, 2]
    assert sum(server.batches, []) == list(server.images)  # noqa: RUF017
    assert server.executed.count("UPDATE public.posts") == 4 + 4 + 1  # passes of 16
    assert server.executed.count("FROM visrec.model") == 1
    assert len(server.vectors) == 130


def test_images_in_the_rows_are_read_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "BATCH_OF_BYTES", 16)
    server = Server(many(40))
    assert write(server)["embedded"] == 40
    assert [len(ids) for ids in server.batches] == [16, 16, 8]


def test_paths_are_read_a_batch_ahead() -> None:
    server = Server({str(number): "/outside.png" for number in range(1, 131)})
    server.names["image_type"] = "text"
    assert write(server)["failed"] == 130
    assert [len(ids) for ids in server.batches] == [64, 64, 2]
    reads = [kind for kind in server.executed if "ANY" in kind or "INSERT" in kind]
    assert ["ANY" in kind for kind in reads[:3]] == [True, True, False]


def test_no_rows_load_no_model() -> None:
    server = Server({"1": None})
    assert write(server, []) | {"seen": 1} == write(server, ["1"])
    assert "FROM visrec.model" not in server.executed


def test_raise_stops_at_the_first_batch_with_a_failure() -> None:
    images: dict[str, bytes | None] = {**many(150), "70": b"bad", "140": b"bad"}
    server = Server(images)
    outcome = write(server, on_error="raise")
    assert (outcome["failed"], outcome["first_failure"]["id"]) == (1, "70")
    assert len(server.batches) == 2
    server = Server(images)
    assert write(server, on_error="record")["failed"] == 2
    assert len(server.batches) == 3


def test_the_first_failure_is_the_one_told() -> None:
    server = Server({"1": "/outside.png", "2": b"bad"})
    outcome = write(server)
    assert outcome["failed"] == 2
    assert (outcome["first_failure"]["id"], outcome["first_failure"]["code"]) == (
        "1",
        "outside_roots",
    )
    assert outcome["first_failure"]["image"] == "/outside.png"


@pytest.mark.parametrize("length", [500, 501])
def test_a_long_path_is_shown_cut(length: int) -> None:
    path = "/" + "x" * (length - 1)
    server = Server({"1": path})
    outcome = write(server)
    shown = path if length == 500 else path[:499] + "…"
    assert server.failures["1"]["image"] == outcome["first_failure"]["image"] == shown


def test_a_column_that_is_gone_is_said() -> None:
    server = Server({"1": png()})
    server.names["table"] = None
    with pytest.raises(LookupError, match="attach it again"):
        write(server)


# A model that does not work -------------------------------------------------------------


@pytest.fixture
def broken_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """Every load fails; the directories that were tried."""
    tried: list[str | None] = []

    def fail(directory: str | None, _fingerprint: str | None) -> encoder.Encoder:
        tried.append(directory)
        raise errors.EncoderUnavailable("it does not load", hint="Mend it.")

    monkeypatch.setattr(encoder, "load", fail)
    return tried


def test_an_encoder_error_is_recorded_once_for_each_row_and_not_tried_again(
    broken_model: list[str | None],
) -> None:
    server = Server({**many(130), "131": None})
    outcome = write(server)
    assert (outcome["embedded"], outcome["failed"]) == (0, 130)
    assert outcome["first_failure"]["sqlstate"] == "55000"
    assert outcome["first_failure"]["hint"] == "Mend it."
    assert len(server.failures) == 130
    assert {row["code"] for row in server.failures.values()} == {"encoder_unavailable"}
    assert len(broken_model) == 1


def test_an_encoder_error_stops_at_the_first_batch_with_raise(
    broken_model: list[str | None],
) -> None:
    server = Server(many(130))
    assert write(server, on_error="raise")["failed"] == 64
    assert len(server.batches) == 1


def test_a_model_that_is_not_registered_is_an_encoder_error() -> None:
    server = Server({"1": png()})
    failure = write(server, model="other")["first_failure"]
    assert failure["code"] == "encoder_unavailable"
    assert failure["message"] == 'the model "other" is not registered'
    assert "register_model" in failure["hint"]


def test_the_libraries_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(backend, "BATCH_SIZE", 64)
    monkeypatch.setattr(backend, "BATCH_OF_BYTES", 64)
    monkeypatch.setattr(statements, "_plans", {})
    monkeypatch.setattr(in_process, "HOME", tmp_path)
    server = Server({"1": png()})
    failure = write(server)["first_failure"]
    assert failure["code"] == "encoder_unavailable"
    assert "make venv" in failure["hint"]


def test_plans_are_kept_for_the_session() -> None:
    write(Server({"1": png(), "2": b"bad"}))
    again = Server({"1": png(), "2": b"bad"})
    write(again)
    assert again.prepared == []
    assert again.executed != []


def test_a_loaded_model_is_kept_for_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str | None] = []
    load = encoder.load

    def count(directory: str | None, fingerprint: str | None) -> encoder.Encoder:
        loads.append(directory)
        return load(directory, fingerprint)

    monkeypatch.setattr(encoder, "load", count)
    for _ in range(3):
        write(Server({"1": png()}))
    assert len(loads) == 1


# Backfill -------------------------------------------------------------------------------


def test_backfill_goes_on_after_the_last_key_it_saw() -> None:
    server = Server({**many(5), "2": b"bad", "4": None})
    seen = []
    after = None
    while (outcome := batch(server, after, 2))["last"] is not None:
        after = outcome["last"]
        seen.append((outcome["last"], outcome["embedded"], outcome["failed"]))
    assert seen == [("2", 1, 1), ("5", 2, 0)]
    assert (outcome["embedded"], outcome["failed"]) == (0, 0)
    assert server.vectors.keys() == {"1", "3", "5"}
    assert server.failures.keys() == {"2"}


def test_backfill_records_an_encoder_error_for_no_row(broken_model: list[str | None]) -> None:
    server = Server(many(5))
    server.failures["1"] = {"code": "missing"}
    outcome = batch(server, None, 3)
    assert (outcome["embedded"], outcome["failed"], outcome["first_failure"]) == (0, 0, None)
    assert outcome["error"]["code"] == "encoder_unavailable"
    assert server.failures == {"1": {"code": "missing"}}


# One vector -----------------------------------------------------------------------------


def test_embed_gives_the_vector_a_row_would_get(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(7))
    server = Server({"1": png(7)})
    server.settings["image_roots"] = str(tmp_path)
    write(server)
    expected = {"embedding": server.vectors["1"]}
    assert json.loads(backend.embed(server, "pixels", None, png(7), None)) == expected
    assert json.loads(backend.embed(server, "pixels", "x.png", None, None)) == expected


@pytest.mark.parametrize(
    ("source", "code", "sqlstate", "image"),
    [
        ({"image": b"bad"}, "not_an_image", "22P03", None),
        ({"path": "../x.png"}, "outside_roots", "42501", "../x.png"),
        ({"query": "a red shoe"}, "no_text_tower", "0A000", None),
        ({"query": "x", "model": "other"}, "encoder_unavailable", "55000", None),
        ({"path": "x.png", "model": "other"}, "encoder_unavailable", "55000", "x.png"),
    ],
)
def test_embed_gives_errors_as_json(
    source: dict[str, Any], code: str, sqlstate: str, image: str | None
) -> None:
    asked = {"model": "pixels", "path": None, "image": None, "query": None, **source}
    answer = json.loads(backend.embed(Server(), **asked))
    assert answer.keys() == {"error"}
    error = answer["error"]
    assert error.keys() == {"code", "sqlstate", "message", "hint", "image"}
    assert (error["code"], error["sqlstate"], error["image"]) == (code, sqlstate, image)
    assert error["message"]


def test_embed_gives_a_texts_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np  # noqa: PLC0415

    def encode(model: object, texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), 1] for text in texts], np.float32)

    monkeypatch.setattr(encoder.PixelsEncoder, "encode_texts", encode)
    answer = json.loads(backend.embed(Server(), "pixels", None, None, "shoe"))
    assert answer == {"embedding": "[4,1]"}


def test_inspect_model_gives_fingerprint_and_dimension(tiny_clip: Path) -> None:
    answer = json.loads(backend.inspect_model(Server(), "tiny", str(tiny_clip)))
    assert answer.keys() == {"fingerprint", "dimension"}
    assert answer["dimension"] == 64
    assert len(answer["fingerprint"]) == 32


def test_inspect_model_gives_errors_as_json(tmp_path: Path) -> None:
    error = json.loads(backend.inspect_model(Server(), "none", str(tmp_path)))["error"]
    assert (error["code"], error["sqlstate"]) == ("encoder_unavailable", "55000")


# A cancel -------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Server], Any]] = {
    "write_vectors": write,
    "backfill_batch": lambda server: batch(server, None, 10),
    "embed": lambda server: backend.embed(server, "pixels", None, png(), None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_cancel_in_any_statement_ends_the_call(call: Callable[[Server], Any]) -> None:
    images = {"1": png(), "2": b"bad", "3": None, "4": png()}
    calm = Server(images)
    call(calm)
    assert calm.executed.count("SELECT 1") > 1, "no cancel point between pictures"
    for statement in range(len(calm.executed)):
        server = Server(images)
        server.cancel_at = statement
        with pytest.raises(Cancelled):
            call(server)
        assert len(server.executed) == statement


def test_a_cancel_point_comes_before_each_picture_and_pass() -> None:
    server = Server(many(10))
    write(server)
    first, last = server.executed.index("SELECT 1"), server.executed.index("UPDATE public.posts")
    assert server.executed[first:last] == ["SELECT 1"] * (10 + 1)
