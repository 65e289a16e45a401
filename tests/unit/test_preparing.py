"""The encoder process compiles what it is asked to run, and serves meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests import tiny_clip as tiny
from tests.unit.test_server import embed, nothing, until
from visrec_db.backend import client
from visrec_db.backend.in_process import Model
from visrec_db.models import kept, models
from visrec_db.service import protocol

CACHE = Path(protocol.COMPILED)
LONG = 240
"""Seconds for what takes some on a machine with nothing else to do."""


@pytest.fixture
def model(tiny_clip: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_clip, tmp_path / "tiny-clip")


def clip(model: Path, settings: dict[str, str]) -> client.Shared:
    named = Model("tiny", str(model), models.fingerprint(str(model)))
    return client.Shared(named, settings, nothing, bulk=False)


def status() -> dict:
    return client.control("status", nothing)["models"][0]


def stop() -> None:
    client.stop(nothing)


PICTURE = b"P6\n2 1\n255\n" + bytes([200, 0, 0, 0, 99, 0])


def cosine(first: str, second: str) -> float:
    return sum(a * b for a, b in zip(json.loads(first), json.loads(second), strict=True))


@pytest.mark.usefixtures("data_directory")
def test_it_serves_through_torch_until_the_compiled_form_is_there(
    model: Path, settings: dict[str, str]
) -> None:
    settings["encoder_idle_seconds"] = "1"  # it does not end in the middle
    shared = clip(model, settings)
    found = shared.inspect()
    assert found["dimension"] == tiny.DIMENSION
    assert found["slow"][0] == "its compiled form is being made"
    [before] = embed(shared, [PICTURE])
    assert (status()["runtime"], status()["compiling"]) == ("torch", True)
    until(lambda: not status()["compiling"], LONG)
    now = status()
    assert (now["runtime"], now["slow"]) == ("openvino", None)
    assert now["milliseconds"] > 0
    assert "torch f32: " in now["tried"]
    [after] = embed(shared, [PICTURE])
    assert cosine(before, after) > 0.99
    assert not (model / "openvino").exists()
    entry = kept.place(CACHE, found["fingerprint"])
    assert [each.name for each in CACHE.iterdir()] == [entry.name]
    stop()
    assert shared.inspect() == {**found, "slow": None}  # and at once the next time
    assert status()["runtime"] == "openvino"
    stop()


@pytest.mark.usefixtures("data_directory")
def test_an_encoder_that_is_killed_leaves_nothing_half(
    model: Path,
    settings: dict[str, str],
) -> None:
    shared = clip(model, settings)
    mark = shared.inspect()["fingerprint"]
    until(lambda: CACHE.is_dir() and any(CACHE.glob(".*")), LONG)
    os.kill(client.control("status", nothing)["pid"], signal.SIGKILL)
    until(lambda: client.control("status", nothing) is None)
    assert not kept.place(CACHE, mark).exists()
    shared.dimension()
    until(lambda: not status()["compiling"], LONG)
    assert status()["runtime"] == "openvino"
    assert [each.name for each in CACHE.iterdir()] == [kept.place(CACHE, mark).name]
    stop()


@pytest.mark.usefixtures("data_directory")
def test_what_cannot_be_compiled_says_why(model: Path, settings: dict[str, str]) -> None:
    file = model / tiny.FOLDER / "processor_config.json"
    wanted = json.loads(file.read_text())
    wanted["image_processor"]["size"] = {"shortest_edge": 100}  # the library pads these
    file.write_text(json.dumps(wanted))
    shared = clip(model, settings)
    shared.dimension()
    until(lambda: not status()["compiling"], LONG)
    reason, advice = status()["slow"]
    assert (status()["runtime"], reason) == (
        "torch",
        "the model cannot be compiled: only transformers itself can prepare its pictures",
    )
    assert "register a model that can be compiled" in advice
    stop()
    assert shared.inspect()["slow"] == [reason, advice]  # known, not tried again
    assert not status()["compiling"]
    stop()


@pytest.mark.usefixtures("data_directory")
def test_a_cache_that_others_could_enter_is_not_used(
    model: Path,
    settings: dict[str, str],
) -> None:
    CACHE.mkdir()
    CACHE.chmod(0o777)
    shared = clip(model, settings)
    shared.dimension()
    until(lambda: not status()["compiling"], LONG)
    assert status()["runtime"] == "torch"
    assert "is not the server's own" in status()["slow"][0]
    assert list(CACHE.iterdir()) == []
    stop()
