"""Accounting for rows, with a double of plpy that keeps a table and its failures in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.plpy_double import NAMES, Server, many, png
from visrec_db import errors
from visrec_db.backend import in_process, rows
from visrec_db.encoders import encoder, pixels

pytestmark = pytest.mark.usefixtures("fresh_session")


def embed(
    server: Server, keys: Sequence[str] | None = None, stop: bool = False, lock: bool = False
) -> dict[str, Any]:
    keys = list(server.images) if keys is None else keys
    return json.loads(rows.embed_rows(server, NAMES, keys, stop, lock))


def batch(server: Server, after: str | None, size: int, following: int = 0) -> dict[str, Any]:
    return json.loads(rows.backfill_batch(server, NAMES, after, size, following))


def paths(images: dict[str, str]) -> Server:
    return Server(images, holds_bytes=False)


# Rows of a statement --------------------------------------------------------------------


def test_good_rows_get_vectors_and_bad_ones_a_record() -> None:
    server = Server({"1": png(), "2": b"bad", "3": None, "5": png(9)})
    outcome = embed(server)
    assert outcome == {
        "seen": 3,
        "embedded": 2,
        "failed": 1,
        "first_failure": {
            "code": "not_an_image",
            "sqlstate": "22P03",
            "message": "the data is not a picture in a supported format",
            "hint": outcome["first_failure"]["hint"],
            "image": None,
            "id": "2",
        },
    }
    assert server.vectors.keys() == {"1", "5"}
    for key in ("1", "5"):
        assert len(json.loads(server.vectors[key])) == pixels.DIMENSION
    assert server.vectors["1"] != server.vectors["5"]
    assert server.stamps == {key: hash(server.images[key]) for key in ("1", "5")}
    assert {key: row["code"] for key, row in server.failures.items()} == {"2": "not_an_image"}
    assert server.failures["2"]["image"] is None


def test_pictures_are_found_under_the_roots_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    server = paths({"1": "x.png"})
    server.settings["image_roots"] = f"/nowhere::{tmp_path}"
    assert embed(server)["embedded"] == 1
    stamp = server.stamps["1"]
    assert stamp is not None
    assert 0 <= stamp < 1 << 63


@pytest.mark.parametrize("roots", ["", ":"])
def test_no_root_does_not_mean_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: str
) -> None:
    (tmp_path / "x.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    server = paths({"1": "x.png"})
    server.settings["image_roots"] = roots
    embed(server)
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
    embed(server)
    assert server.failures["1"]["code"] == code


@pytest.mark.parametrize("image", [png(), None], ids=["picture", "none"])
def test_a_picture_forgets_an_earlier_failure_and_others_are_left(image: bytes | None) -> None:
    server = Server({"1": image, "2": image})
    server.failures = {key: {} for key in ("1", "9")}
    embed(server)
    assert server.failures.keys() == ({"9"} if image else {"1", "9"})


def test_a_row_that_has_a_vector_keeps_it() -> None:
    server = Server({"1": png(), "2": png(5)})
    server.vectors["1"] = "[1]"
    assert embed(server)["embedded"] == 1
    assert server.vectors["1"] == "[1]"


@pytest.mark.parametrize("lock", [False, True])
def test_rows_are_read_in_batches_and_written_as_they_come(lock: bool) -> None:
    server = Server(many(130))
    assert embed(server, lock=lock)["embedded"] == 130
    assert [len(keys) for keys in server.batches] == [64, 64, 2]
    assert server.locks == [lock] * 3
    assert sum(server.batches, []) == list(server.images)  # noqa: RUF017
    assert [len(ids) for ids in server.stored] == [16] * 4 + [16] * 4 + [2]
    assert server.executed.count("_terms") == 1
    assert len(server.vectors) == 130


def test_images_in_the_rows_are_read_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BYTES_BATCH_SIZE", 16)
    server = Server(many(40))
    assert embed(server)["embedded"] == 40
    assert [len(keys) for keys in server.batches] == [16, 16, 8]


def test_paths_are_read_a_batch_ahead() -> None:
    server = paths({str(number): "/outside.png" for number in range(1, 131)})
    assert embed(server)["failed"] == 130
    assert [len(keys) for keys in server.batches] == [64, 64, 2]
    calls = [name for name in server.executed if name in ("rows", "take")]
    assert calls[:3] == ["rows", "rows", "take"]


def test_no_rows_load_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "load", pytest.fail)
    server = Server({"1": None})
    assert embed(server, []) == embed(server, ["1"])
    assert embed(server)["seen"] == 0


def test_raise_stops_at_the_first_batch_with_a_failure() -> None:
    images: dict[str, bytes | None] = {**many(150), "70": b"bad", "140": b"bad"}
    server = Server(images)
    outcome = embed(server, stop=True)
    assert (outcome["failed"], outcome["first_failure"]["id"]) == (1, "70")
    assert len(server.batches) == 2
    server = Server(images)
    assert embed(server, stop=False)["failed"] == 2
    assert len(server.batches) == 3


def test_the_first_failure_is_the_one_told() -> None:
    server = paths({"1": "/outside.png", "2": ""})
    outcome = embed(server)
    assert outcome["failed"] == 2
    assert (outcome["first_failure"]["id"], outcome["first_failure"]["code"]) == (
        "1",
        "outside_roots",
    )
    assert outcome["first_failure"]["image"] == "/outside.png"


@pytest.mark.parametrize("length", [500, 501])
def test_a_long_path_is_shown_cut(length: int) -> None:
    path = "/" + "x" * (length - 1)
    server = paths({"1": path})
    outcome = embed(server)
    shown = path if length == 500 else path[:499] + "…"
    assert server.failures["1"]["image"] == outcome["first_failure"]["image"] == shown


def test_what_is_too_large_is_its_own_rows_failure_and_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[Any] = []
    embed_images = in_process.InProcess.embed_images

    def note(self: in_process.InProcess, sources: list[Any], *rest: Any) -> Iterator[list[Any]]:
        sent.extend(sources)
        return embed_images(self, sources, *rest)

    monkeypatch.setattr(in_process.InProcess, "embed_images", note)
    (tmp_path / "x.png").write_bytes(png())
    server = paths({"1": "é" * 2049, "2": "x.png", "3": "é" * 40_000, "4": "a" * 4096})
    server.settings["image_roots"] = str(tmp_path)
    assert embed(server)["embedded"] == 1
    assert sent == ["x.png", "a" * 4096]
    assert {key: row["code"] for key, row in server.failures.items()} == {
        "1": "missing",
        "3": "missing",
        "4": "unreadable",
    }
    assert server.failures["3"]["message"] == "the path is longer than 4096 bytes"
    server = Server({"1": bytes(1001), "2": png(), "3": bytes(1001)})
    server.settings["max_image_bytes"] = "1000"
    sent.clear()
    assert embed(server)["embedded"] == 1
    assert sent == [png()]
    assert server.failures["1"] == server.failures["3"]
    assert server.failures["1"]["message"] == (
        "the image has 1001 bytes, more than max_image_bytes = 1000"
    )


# A model that does not work -------------------------------------------------------------


@pytest.fixture
def broken_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """Every load fails; the directories that were tried."""
    tried: list[str | None] = []

    def fail(directory: str | None, *_: Any) -> encoder.Encoder:
        tried.append(directory)
        raise errors.EncoderUnavailable("it does not load", hint="Mend it.")

    monkeypatch.setattr(encoder, "load", fail)
    return tried


def test_an_encoder_error_is_recorded_once_for_each_row_and_not_tried_again(
    broken_model: list[str | None],
) -> None:
    server = Server({**many(130), "131": None, "132": bytes(2_000_000)})
    outcome = embed(server)
    assert (outcome["embedded"], outcome["failed"]) == (0, 131)
    assert outcome["first_failure"]["sqlstate"] == "55000"
    assert outcome["first_failure"]["hint"] == "Mend it."
    assert len(server.failures) == 131
    assert server.failures.pop("132")["code"] == "too_large"
    assert {row["code"] for row in server.failures.values()} == {"encoder_unavailable"}
    assert len(broken_model) == 1


def test_an_encoder_error_stops_at_the_first_batch_with_raise(
    broken_model: list[str | None],
) -> None:
    server = Server(many(130))
    assert embed(server, stop=True)["failed"] == 64
    assert len(server.batches) == 1


def test_a_model_that_is_not_registered_is_an_encoder_error() -> None:
    server = Server({"1": png()})
    server.model = "it's"
    failure = embed(server)["first_failure"]
    assert failure["code"] == "encoder_unavailable"
    assert failure["message"] == 'model "it\'s" is not registered'
    assert failure["hint"].endswith("SELECT visrec.register_model('it''s').")


def test_other_weights_than_the_tables_are_an_encoder_error() -> None:
    server = Server({"1": png()})
    server.fingerprint = "pixels-0"
    failure = embed(server)["first_failure"]
    assert failure["code"] == "encoder_unavailable"
    assert failure["message"].startswith('model "pixels" has other weights')


def test_the_libraries_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(in_process, "HOME", tmp_path)
    failure = embed(Server({"1": png()}))["first_failure"]
    assert failure["code"] == "encoder_unavailable"
    assert "make venv" in failure["hint"]


def test_plans_are_kept_for_the_session() -> None:
    embed(Server({"1": png(), "2": b"bad"}))
    again = Server({"1": png(), "2": b"bad"})
    embed(again)
    assert again.prepared == []
    assert again.executed != []


def test_a_loaded_model_is_kept_for_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str | None] = []
    load = encoder.load

    def count(directory: str | None, *others: Any) -> encoder.Encoder:
        loads.append(directory)
        return load(directory, *others)

    monkeypatch.setattr(encoder, "load", count)
    for _ in range(3):
        embed(Server({"1": png()}))
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
    assert (outcome["seen"], outcome["embedded"], outcome["failed"]) == (0, 0, 0)
    assert server.vectors.keys() == {"1", "3", "5"}
    assert server.failures.keys() == {"2"}


def test_rows_that_follow_are_left_for_the_next_call() -> None:
    server = paths({str(number): "/outside.png" for number in range(1, 8)})
    outcome = batch(server, None, 2, following=2)
    assert (outcome["seen"], outcome["last"], len(server.failures)) == (2, "2", 2)


def test_backfill_records_an_encoder_error_for_no_row(broken_model: list[str | None]) -> None:
    server = Server(many(5))
    server.failures["1"] = {"code": "missing"}
    outcome = batch(server, None, 3)
    assert (outcome["embedded"], outcome["failed"], outcome["first_failure"]) == (0, 0, None)
    assert outcome["error"]["code"] == "encoder_unavailable"
    assert outcome["error"]["image"] is None
    assert server.failures == {"1": {"code": "missing"}}


# A cancel -------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Server], dict[str, Any]]] = {
    "embed_rows": embed,
    "backfill_batch": lambda server: batch(server, None, 10),
}
CANCELED = {
    "code": "canceled",
    "sqlstate": "57014",
    "message": "canceling statement due to statement timeout",
    "hint": None,
    "image": None,
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
        assert call(server) == {"error": CANCELED}
        assert len(server.executed) == statement


def test_other_errors_of_the_server_are_not_caught() -> None:
    class UniqueViolation(Exception):
        pass

    def fail(*_: Any) -> Any:
        raise UniqueViolation

    server = Server({"1": png()})
    server.give = fail  # type: ignore[method-assign]
    with pytest.raises(UniqueViolation):
        embed(server)


def test_a_cancel_point_comes_before_each_picture_and_pass() -> None:
    server = Server(many(10))
    embed(server)
    first, last = server.executed.index("SELECT 1"), server.executed.index("give")
    assert server.executed[first:last] == ["SELECT 1"] * (10 + 1)
