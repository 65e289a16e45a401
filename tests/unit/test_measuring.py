"""What runs is the fastest of the forms that give the same vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visrec_db.models import measuring, samples

Run = Callable[[np.ndarray], np.ndarray]
PICTURES = np.random.default_rng(2).standard_normal((64, 16)).astype(np.float32)


def noisy(amount: float) -> Run:
    random = np.random.default_rng(3)
    return lambda batch: batch + amount * random.standard_normal(batch.shape)


def clock(monkeypatch: pytest.MonkeyPatch, milliseconds: dict[str, float]) -> None:
    def seconds(candidate: measuring.Candidate, _: np.ndarray) -> tuple[float, float]:
        return milliseconds[candidate.form] / 1000, milliseconds[candidate.form] / 1000

    monkeypatch.setattr(measuring, "_seconds", seconds)


def choose(forms: dict[str, Run]) -> measuring.Choice:
    candidates = [measuring.Candidate(form, run, 8) for form, run in forms.items()]
    return measuring.choose(candidates, PICTURES[:8], lambda: [PICTURES])


def verdicts(choice: measuring.Choice) -> dict[str, str]:
    return {trial.form: trial.verdict for trial in choice.trials}


def test_the_fastest_of_those_that_give_the_same_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"f32": 22, "bf16": 11.9, "int8": 15, "int8 with bf16": 9.2, "other": 1})
    choice = choose(
        {
            "f32": noisy(0),
            "bf16": noisy(0.001),
            "int8": noisy(0.001),
            "int8 with bf16": noisy(0.002),
            "other": noisy(0.5),
        }
    )
    assert (choice.form, choice.milliseconds) == ("int8 with bf16", 9.2)
    found = verdicts(choice)
    assert found["f32"] == "exact"
    assert found["int8"] == "slower"
    assert found["int8 with bf16"].startswith("cosine 1.0000, neighbours ")
    assert found["int8 with bf16"].endswith(", runs")
    assert found["other"].endswith("not enough")
    assert "f32: 22 ms, 22 alone, exact; bf16: 11.9 ms" in choice.described()


def test_a_gain_that_may_be_noise_rounds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, {"f32": 10, "bf16": 9.5})
    assert choose({"f32": noisy(0), "bf16": noisy(0)}).form == "f32"


def test_one_set_of_pictures_that_differ_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """As photographs may, where made-up pictures do not."""
    clock(monkeypatch, {"f32": 10, "int8": 1})

    def quantized(batch: np.ndarray) -> np.ndarray:
        return batch if batch[0, 0] < 100 else np.flip(batch, axis=1)

    candidates = [
        measuring.Candidate(*each, 64) for each in (("f32", noisy(0)), ("int8", quantized))
    ]
    photographs = PICTURES.copy()
    photographs[0, 0] = 100
    found = measuring.choose(candidates, PICTURES, lambda: [PICTURES, photographs])
    assert found.form == "f32"
    assert "(photographs too): not enough" in found.described()


def test_a_form_that_is_far_slower_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def seconds(candidate: measuring.Candidate, _: np.ndarray) -> tuple[float, float]:
        timed.append(candidate.form)
        return (1, 1) if candidate.form == "f32" else (4, 4)

    monkeypatch.setattr(measuring, "_seconds", seconds)
    assert choose({"f32": noisy(0), "torch": noisy(0)}).form == "f32"
    assert (timed.count("f32"), timed.count("torch")) == (1 + measuring.PASSES, 1)


# Photographs ----------------------------------------------------------------------------


def test_photographs_are_found_below_the_roots_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    for shade in range(40):
        Image.new("RGB", (20, 10), (shade, 0, 0)).save(below / f"{shade:02}.png")
    (below / "99.jpg").write_bytes(b"no picture")
    (tmp_path / "note.txt").touch()
    (tmp_path / "out.jpg").symlink_to("/etc/passwd")
    found = samples.photographs([str(tmp_path)], lambda picture: picture.getpixel((0, 0))[0], None)
    assert found == list(range(40))
    assert len(samples.sets([str(tmp_path)], np.asarray, None)) == 2
    assert len(samples.sets([str(tmp_path / "none")], np.asarray, None)) == 1


def test_many_photographs_are_taken_at_equal_distances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "NUMBER", 4)
    for shade in range(8):
        Image.new("RGB", (20, 10), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    found = samples.photographs([str(tmp_path)], lambda picture: picture.getpixel((0, 0))[0], None)
    assert found == [0, 2, 4, 6]
