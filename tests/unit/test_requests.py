"""Single requests, with a double of plpy."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.plpy_double import NAMES, Server, png
from tests.unit.test_rows import CANCELED
from tests.unit.test_rows import embed as embed_rows
from visrec_db.backend import client, duplicates, requests, session
from visrec_db.encoders import encoder
from visrec_db.results import Embedding, Look

pytestmark = pytest.mark.usefixtures("fresh_session")


def test_embed_gives_the_vector_a_row_would_get(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(7))
    server = Server({"1": png(7)})
    server.settings["image_roots"] = str(tmp_path)
    embed_rows(server)
    expected = {"embedding": server.vectors["1"]}
    assert json.loads(requests.embed(server, "pixels", None, png(7), None)) == expected
    assert json.loads(requests.embed(server, "pixels", "x.png", None, None)) == expected


@pytest.mark.parametrize(
    ("source", "code", "sqlstate", "image"),
    [
        ({"image": b"bad"}, "not_an_image", "22P03", None),
        ({"image": bytes(1_000_001)}, "too_large", "54000", None),
        ({"path": "../x.png"}, "outside_roots", "42501", "../x.png"),
        ({"path": "x" * 5000}, "missing", "58P01", "x" * 499 + "…"),
        ({"path": "a\0b"}, "missing", "58P01", "a\0b"),
        ({"path": ""}, "missing", "58P01", ""),
        ({"query": "a red shoe"}, "no_text_tower", "0A000", None),
        ({"query": "x", "model": "other"}, "encoder_unavailable", "55000", None),
        # Not the image's fault, and so not named.
        ({"path": "x.png", "model": "other"}, "encoder_unavailable", "55000", None),
    ],
)
def test_embed_gives_errors_as_json(
    source: dict[str, Any], code: str, sqlstate: str, image: str | None
) -> None:
    asked = {"model": "pixels", "path": None, "image": None, "query": None, **source}
    answer = json.loads(requests.embed(Server(), **asked))
    assert answer.keys() == {"error"}
    error = answer["error"]
    assert error.keys() == {"code", "sqlstate", "message", "hint", "image"}
    assert (error["code"], error["sqlstate"], error["image"]) == (code, sqlstate, image)
    assert error["message"]


def test_embed_gives_a_texts_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(model: object, texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), 1] for text in texts], np.float32)

    monkeypatch.setattr(encoder.PixelsEncoder, "encode_texts", encode)
    answer = json.loads(requests.embed(Server(), "pixels", None, None, "shoe"))
    assert answer == {"embedding": "[4,1]"}


def test_inspect_model_gives_fingerprint_and_dimension(tiny_clip: Path) -> None:
    answer = json.loads(requests.inspect_model(Server(), "tiny", str(tiny_clip)))
    assert answer.keys() == {"fingerprint", "dimension", "slow"}
    assert answer["dimension"] == 64
    assert len(answer["fingerprint"]) == 32


def test_inspect_model_gives_errors_as_json(tmp_path: Path) -> None:
    error = json.loads(requests.inspect_model(Server(), "none", str(tmp_path)))["error"]
    assert (error["code"], error["sqlstate"]) == ("encoder_unavailable", "55000")


def test_warm_loads_the_model() -> None:
    assert json.loads(requests.encoder_warm(Server(), "pixels")) == {"dimension": 512}
    error = json.loads(requests.encoder_warm(Server(), "other"))["error"]
    assert error["message"] == 'model "other" is not registered'


def test_without_an_encoder_process_there_is_no_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert requests.encoder_status(Server()) == "null"
    assert json.loads(requests.encoder_stop(Server())) == {"stopped": False}


def test_auto_embeds_here_where_no_process_starts_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = Server({"1": png(), "2": png()})
    server.settings["encoder"] = "auto"
    assert [embed_rows(server, [key])["embedded"] for key in "12"] == [1, 1]
    assert len(server.warnings) == 1
    server = Server({"1": png()})
    server.settings["encoder"] = "shared"
    assert embed_rows(server)["first_failure"]["code"] == "encoder_unavailable"


# Duplicates -----------------------------------------------------------------------------


def test_kinds_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BATCH_SIZE", 2)
    random = np.random.default_rng(2)
    coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((300, 300), Image.Resampling.BICUBIC)
    encoded = {}
    for name, options in {"png": {}, "jpeg": {"quality": 60}}.items():
        stream = io.BytesIO()
        picture.save(stream, name, **options)
        encoded[name] = stream.getvalue()
    large = bytes(2_000_000)
    server = Server(
        {"1": encoded["png"], "2": encoded["png"], "3": encoded["jpeg"], "4": png(3), "5": b"bad",
         "6": b"bad", "7": None, "8": large, "9": large}
    )  # fmt: skip
    first, second = list("11155178"), list("23461789")
    second[4] = "6"
    answer = json.loads(requests.duplicate_kinds(server, NAMES, first, second))
    assert answer == {
        "kinds": ["exact", "near", "similar", "exact", "exact", "similar", "similar", "similar"]
    }
    assert max(map(len, server.batches)) == 2


def test_a_pair_is_near_by_bits_and_colours() -> None:
    base = Look("a", 0, [100] * 48)
    assert duplicates.kind(base, Look("b", 0xFF, [112] * 48)) == "near"
    assert duplicates.kind(base, Look("b", 0x1FF, [100] * 48)) == "similar"
    assert duplicates.kind(base, Look("b", 0, [113, *[100] * 47])) == "similar"
    assert duplicates.kind(base, Look("b", None, None)) == "similar"
    assert duplicates.kind(base, None) == "similar"


# Components and stamps ------------------------------------------------------------------


def test_components_come_as_texts_and_bad_questions_as_errors() -> None:
    vectors = np.random.default_rng(1).random((50, 8), np.float32)
    sample = vectors.astype(">f4").tobytes()
    answer = json.loads(requests.principal_components(Server(), sample, 8, 2))
    assert answer.keys() == {"components", "variance", "neighbours", "recall"}
    assert [len(json.loads(row)) for row in answer["components"]] == [8, 8]
    for size, dims in ((len(sample), 9), (len(sample) - 1, 2), (len(sample), 0)):
        error = json.loads(requests.principal_components(Server(), sample[:size], 8, dims))["error"]
        assert (error["code"], error["sqlstate"]) == ("invalid_request", "22023")


def test_stamps_of_files(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    server = Server()
    server.settings["image_roots"] = str(tmp_path)
    asked = ["x.png", "none.png", "é" * 3000, None, str(tmp_path / "x.png"), "x.png"]
    stamps = json.loads(requests.file_stamps(server, asked))["stamps"]
    assert stamps[1:4] == [None] * 3
    assert stamps[0] == stamps[4] == stamps[5] is not None
    assert json.loads(requests.file_stamps(server, [])) == {"stamps": []}


# A cancel -------------------------------------------------------------------------------


def test_a_cancel_ends_each_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {
        "embed": lambda server: requests.embed(server, "pixels", None, png(), None),
        "inspect": lambda server: requests.inspect_model(server, "none", str(tmp_path)),
        "warm": lambda server: requests.encoder_warm(server, "pixels"),
        "kinds": lambda server: requests.duplicate_kinds(server, NAMES, ["1"], ["2"]),
        "stamps": lambda server: requests.file_stamps(server, ["x"]),
    }
    for name, call in calls.items():
        server = Server({"1": png(), "2": png()})
        server.cancel_at = 0
        assert json.loads(call(server)) == {"error": CANCELED}, name


def test_a_cancel_while_rows_are_stored_closes_the_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = []

    class Conversation:
        def embed_images(self, sources: list[Any], *_: Any) -> Any:
            try:
                for _ in sources:
                    yield [Embedding("[1]", None)]
            finally:
                closed.append(True)

    monkeypatch.setattr(session, "connect", lambda *_, **__: Conversation())
    server = Server({"1": png(), "2": png()})
    server.cancel_at = 2  # _terms, rows, and then give
    assert embed_rows(server) == {"error": CANCELED}
    assert closed == [True]
    assert client._idle == []
