"""A model's fingerprint changes with whatever changes its vectors, and with nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tests import tiny_clip as tiny
from visrec_db import errors
from visrec_db.models import models, pulling


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory as the hub's models are laid out; no test here loads it."""
    directory = tmp_path / "model"
    inner = directory / "0_CLIPModel"
    inner.mkdir(parents=True)
    (directory / "modules.json").write_text("[]")
    (inner / "model.safetensors").write_bytes(bytes(1000))
    (inner / "preprocessor_config.json").write_text('{"resample": 3}')
    return directory


def test_a_fingerprint_is_32_digits_and_the_same_in_another_place(
    model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "elsewhere")
    mark = models.fingerprint(str(model))
    assert re.fullmatch("[0-9a-f]{32}", mark)
    assert models.fingerprint(str(tmp_path / "elsewhere")) == mark


def test_other_weights_have_another_fingerprint(tiny_clip: Path, tmp_path: Path) -> None:
    again = tiny.make(tmp_path / "again")
    other = tiny.make(tmp_path / "other", seed=1)
    assert models.fingerprint(str(again)) == models.fingerprint(str(tiny_clip))
    assert models.fingerprint(str(other)) != models.fingerprint(str(tiny_clip))


def flip_a_bit(model: Path) -> None:
    weights = model / "0_CLIPModel" / "model.safetensors"
    weights.write_bytes(bytes(999) + b"\1")


def change_preprocessing(model: Path) -> None:
    (model / "0_CLIPModel" / "preprocessor_config.json").write_text('{"resample": 2}')


def change_modules(model: Path) -> None:
    (model / "modules.json").write_text("[1]")


def add_weights(model: Path) -> None:
    (model / "adapter.bin").write_bytes(b"")


def rename_weights(model: Path) -> None:
    weights = model / "0_CLIPModel" / "model.safetensors"
    weights.rename(weights.with_name("other.safetensors"))


def move_bytes_between_files(model: Path) -> None:
    (model / "modules.json").write_text("[]0")
    (model / "0_CLIPModel" / "model.safetensors").write_bytes(bytes(999))


@pytest.mark.parametrize(
    "change",
    [
        flip_a_bit,
        change_preprocessing,
        change_modules,
        add_weights,
        rename_weights,
        move_bytes_between_files,
    ],
)
def test_a_change_of_the_model_shows(model: Path, change: Callable[[Path], None]) -> None:
    before = models.fingerprint(str(model))
    change(model)
    assert models.fingerprint(str(model)) != before


@pytest.mark.parametrize("name", ["README.md", ".gitattributes", "docs/how.txt", "LICENSE"])
def test_files_that_do_not_matter_do_not_show(model: Path, name: str) -> None:
    before = models.fingerprint(str(model))
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("new")
    assert models.fingerprint(str(model)) == before


def test_a_missing_directory_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(errors.EncoderUnavailable, match="does not exist") as caught:
        models.fingerprint(str(tmp_path / "missing"))
    assert "visrec model pull" in (caught.value.hint or "")


def test_a_directory_without_weights_is_unavailable(model: Path) -> None:
    (model / "0_CLIPModel" / "model.safetensors").unlink()
    with pytest.raises(errors.EncoderUnavailable, match="no model weights"):
        models.fingerprint(str(model))


def test_weights_that_cannot_be_read_are_unavailable(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: Any) -> IO[bytes]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # chmod does not stop root
    with pytest.raises(errors.EncoderUnavailable, match="Permission denied") as caught:
        models.fingerprint(str(model))
    assert "operating-system user" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "repository", "directory"),
    [
        ("clip-ViT-B-32", "sentence-transformers/clip-ViT-B-32", "clip-ViT-B-32"),
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32", "clip-vit-base-patch32"),
    ],
)
def test_names(name: str, repository: str, directory: str) -> None:
    assert pulling.repository(name) == repository
    assert models.directory_name(name) == directory


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "/a", "a/", "a/b/c", "../a", "a b", "-a"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.EncoderUnavailable, match="not the name of a model"):
        pulling.pull(name, tmp_path / "models", pytest.fail)
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_there_is_kept(model: Path) -> None:
    before = models.fingerprint(str(model))
    assert pulling.pull("owner/model", model.parent, pytest.fail) == model
    assert models.fingerprint(str(model)) == before


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (
            RuntimeError("it broke\nand went on"),
            errors.EncoderUnavailable,
            'model "owner/model" cannot be fetched: it broke',
        ),
        (TimeoutError(), errors.EncoderUnavailable, "cannot be fetched: TimeoutError"),
        (OSError(28, "No space left on device"), OSError, "No space left on device"),
    ],
    ids=["several lines", "no message", "disk full"],
)
def test_what_goes_wrong_while_fetching_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    kind: type[Exception],
    message: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    with pytest.raises(kind, match=message + "$"):
        pulling.pull("owner/model", tmp_path, pytest.fail)
    assert list(tmp_path.iterdir()) == []
