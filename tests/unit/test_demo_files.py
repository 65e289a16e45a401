"""Which files the demo takes for pictures, and that it draws its own once."""

import os
from pathlib import Path

import pytest

import picture_files
from draw_pictures import Sketch


def interrupt(sketch: Sketch) -> None:
    raise KeyboardInterrupt


def test_pictures_are_found_at_any_depth_by_their_suffix_and_in_order(tmp_path: Path) -> None:
    wanted = ["B.JPG", "a/b/c/deep.webp", "a/it's.tiff", "é 日本.avif"]
    others = [".hidden.png", ".cache/x.png", "a/.git/x.png", "notes.txt", "png"]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin-\xe9.jpg")).touch()
    assert [str(path) for path in picture_files.find_pictures(tmp_path)] == wanted


def test_pictures_are_drawn_once_and_again_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "DRAWN", 2)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Sketch, "photograph", interrupt)
        with pytest.raises(KeyboardInterrupt):
            picture_files.drawn(tmp_path / "drawn")
    assert not (tmp_path / "drawn").exists()
    picture_files.drawn(tmp_path / "drawn")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "drawn").rglob("*.jpg")}
    assert len(first) == 2
    picture_files.drawn(tmp_path / "drawn")
    assert {path: path.stat().st_mtime_ns for path in first} == first
