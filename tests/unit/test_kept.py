"""The cache of compiled models: whole or not there, private, bounded, filled by one process."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests import tiny_clip as tiny
from visrec_db import errors
from visrec_db.encoders import encoder, hardware
from visrec_db.encoders.compiled import Choice
from visrec_db.models import compiling, kept, making, models

ONE, OTHER = "1" * 32, "2" * 32


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fill(cache: Path, fingerprint: str) -> Path:
    with kept.opened(cache), kept.entry(cache, fingerprint, 0) as work:
        (work / "visrec.json").write_text("{}")
    return kept.place(cache, fingerprint)


def names(cache: Path) -> set[str]:
    return {each.name for each in cache.iterdir()}


def test_an_entry_is_there_when_it_is_whole_and_private(cache: Path) -> None:
    with kept.opened(cache), kept.entry(cache, ONE, 0) as work:
        (work / "visrec.json").write_text("{}")
        assert not kept.place(cache, ONE).exists()
    assert (kept.place(cache, ONE) / "visrec.json").is_file()
    for each in (cache, kept.place(cache, ONE)):
        assert each.stat().st_mode & 0o077 == 0


def test_what_fails_leaves_what_was_there(cache: Path) -> None:
    fill(cache, ONE)
    with pytest.raises(FileNotFoundError), kept.opened(cache), kept.entry(cache, ONE, 0) as work:
        (work / "half").mkdir() or (work / "nowhere" / "file").touch()
    assert names(cache) == {kept.place(cache, ONE).name}
    assert [each.name for each in kept.place(cache, ONE).iterdir()] == ["visrec.json"]


def test_what_a_crash_left_is_removed(cache: Path) -> None:
    fill(cache, ONE)
    (cache / ".half").mkdir()
    (cache / ".half" / "image.bin").touch()
    with kept.opened(cache):
        assert names(cache) == {kept.place(cache, ONE).name}


def test_one_process_fills_it(cache: Path) -> None:
    two = pytest.raises(errors.EncoderUnavailable, match="another process")
    with kept.opened(cache), two, kept.opened(cache):
        pytest.fail("two at once")
    with kept.opened(cache):
        pass


@pytest.mark.parametrize("how", ["mode", "link"])
def test_a_directory_that_others_could_enter_is_not_trusted(
    cache: Path, tmp_path: Path, how: str
) -> None:
    place = fill(cache, ONE)
    kept.refuse(cache, OTHER, "reason")
    assert kept.refused(cache, OTHER) == "reason"
    if how == "mode":
        cache.chmod(0o750)
    else:
        cache.rename(tmp_path / "elsewhere")
        cache.symlink_to(tmp_path / "elsewhere")
    assert not kept.is_ours(cache)
    assert kept.refused(cache, OTHER) is None
    with pytest.raises(errors.EncoderUnavailable, match="not the server's own"), kept.opened(cache):
        pytest.fail(f"opened {place}")


def test_an_entry_is_for_one_processor_and_one_version(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(cache, ONE)
    monkeypatch.setattr(hardware, "processor", lambda: "another")
    assert kept.place(cache, ONE) != place
    monkeypatch.undo()
    monkeypatch.setattr(kept, "__version__", "99.0")
    assert kept.place(cache, ONE) != place
    newer = fill(cache, ONE)
    assert names(cache) == {newer.name}  # the older one is of no use to anybody


def test_what_was_longest_not_used_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 3)
    for number in range(3):
        os.utime(fill(cache, f"{number}" * 32), (number + 1, number + 1))
    kept.used(kept.place(cache, "0" * 32))
    fill(cache, "9" * 32)
    assert {name[0] for name in names(cache)} == {"0", "2", "9"}


def test_the_servers_disk_is_not_filled(cache: Path) -> None:
    full = pytest.raises(OSError, match="MB left")
    with kept.opened(cache), full, kept.entry(cache, ONE, 1 << 60):
        pytest.fail("there is no such disk")
    assert names(cache) == set()


# What the child makes -------------------------------------------------------------------


@pytest.fixture
def model(tiny_clip: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_clip, tmp_path / "tiny-clip")


def test_the_compiled_form_is_made_in_the_cache_and_used(model: Path, cache: Path) -> None:
    mark = models.fingerprint(str(model))
    before = sorted(model.rglob("*"))
    making.make(model, mark, cache, [])
    assert sorted(model.rglob("*")) == before
    found = encoder.load(str(model), mark, cache)
    assert (found.runtime, found.dimension) == ("openvino", tiny.DIMENSION)
    assert found.choice is not None
    assert encoder.load(str(model), None, cache).runtime == "torch"  # whose weights?
    cache.chmod(0o755)
    assert encoder.load(str(model), mark, cache).runtime == "torch"


def test_a_form_made_by_hand_is_only_measured(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image for containers, built on another processor."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(hardware, "processor", lambda: "another")
        manifest, _ = compiling.compile_model(model)
    assert encoder.load(str(model), manifest.fingerprint, cache).choice is None
    monkeypatch.setattr(compiling, "make", None)
    making.make(model, manifest.fingerprint, cache, [])
    assert names(kept.place(cache, manifest.fingerprint)) == {"choice.json"}
    measured = Choice.read(kept.place(cache, manifest.fingerprint))
    assert measured is not None
    assert encoder.load(str(model), manifest.fingerprint, cache).choice == measured


def test_a_model_that_cannot_be_compiled_is_noted_once(model: Path, cache: Path) -> None:
    file = model / tiny.FOLDER / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = {"shortest_edge": 100}  # the library pads these
    file.write_text(json.dumps(settings))
    mark = models.fingerprint(str(model))
    with pytest.raises(errors.EncoderUnavailable, match="only transformers itself"):
        making.make(model, mark, cache, [])
    assert "only transformers itself" in (kept.refused(cache, mark) or "")
    assert not kept.place(cache, mark).exists()


def test_other_weights_than_registered_are_not_compiled(model: Path, cache: Path) -> None:
    with pytest.raises(errors.EncoderUnavailable, match="other weights"):
        making.make(model, ONE, cache, [])
    assert names(cache) == set()
