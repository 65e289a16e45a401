"""Which form of a model runs on this machine: the fastest of those that give the same vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visrec_db.encoders import hardware
from visrec_db.encoders.compiled import Choice, Trial
from visrec_db.models.quantizing import NEIGHBOURS, PARITY, parity, shared_neighbours

Vectors = NDArray[np.float32]

PASSES = 5
"""Rounds of timing, of a batch and of a picture alone; the median counts, as others work too."""

HOPELESS = 3
"""Times slower than the first form in the round that warms up: not timed any further."""

FASTER = 1.1
"""What a form that rounds more must gain: less is what two timings of one form differ by."""


@dataclass(frozen=True)
class Candidate:
    """A form that could run. ``batch``: pictures of a pass; ``gain``: how much faster it must be.

    ``run`` takes prepared pictures (n, …) to vectors (n, dimension).
    """

    form: str
    run: Callable[[Any], Vectors]
    batch: int
    gain: float = FASTER


def choose(
    candidates: Sequence[Candidate],
    pictures: NDArray[Any],
    samples: Callable[[], Sequence[NDArray[Any]]],
) -> Choice:
    """Returns what is fastest of the candidates, the first of which is what the others are held to.

    ``pictures``: prepared ones for timing, as many as the largest batch. ``samples`` gives sets of
    prepared pictures on each of which the vectors must agree.
    """
    exact = best = candidates[0]
    timings = _timed(candidates, pictures)
    sets: Sequence[NDArray[Any]] = ()
    expected: list[Vectors] = []
    verdicts = {exact.form: "exact"}
    for candidate in candidates[1:]:
        if _score(timings[candidate.form]) * candidate.gain > _score(timings[best.form]):
            verdicts[candidate.form] = "slower"
            continue
        sets = sets or samples()
        expected = expected or [_all(exact, sample) for sample in sets]
        ours = [_all(candidate, sample) for sample in sets]
        verdicts[candidate.form], same = _compared(ours, expected)
        if same:
            best = candidate
    verdicts[best.form] += ", runs"
    trials = [Trial(form, *timings[form], verdicts[form]) for form in timings]
    return Choice(hardware.processor(), best.form, tuple(trials))


def _timed(
    candidates: Sequence[Candidate], pictures: NDArray[Any]
) -> dict[str, tuple[float, float]]:
    """Returns milliseconds a picture of each form, in batches and alone, measured in turns."""
    warm = {each.form: _seconds(each, pictures) for each in candidates}
    limit = HOPELESS * _score(warm[candidates[0].form])
    hopeful = [each for each in candidates if _score(warm[each.form]) <= limit]
    rounds = [{each.form: _seconds(each, pictures) for each in hopeful} for _ in range(PASSES)]
    taken = {
        form: np.median([each.get(form, first) for each in rounds], axis=0)
        for form, first in warm.items()
    }
    return {form: (_milliseconds(many), _milliseconds(one)) for form, (many, one) in taken.items()}


def _seconds(candidate: Candidate, pictures: NDArray[Any]) -> tuple[float, float]:
    batch = pictures[: candidate.batch]
    start = time.perf_counter()
    candidate.run(batch)
    middle = time.perf_counter()
    candidate.run(batch[:1])
    return (middle - start) / len(batch), time.perf_counter() - middle


def _milliseconds(seconds: float) -> float:
    return float(f"{1000 * seconds:.3g}")


def _score(timing: tuple[float, float]) -> float:
    """A backfill and a single INSERT count alike."""
    return sqrt(timing[0] * timing[1])


def _all(candidate: Candidate, pictures: NDArray[Any]) -> Vectors:
    starts = range(0, len(pictures), candidate.batch)
    return np.concatenate(
        [candidate.run(pictures[start : start + candidate.batch]) for start in starts]
    )


def _compared(ours: Sequence[Vectors], expected: Sequence[Vectors]) -> tuple[str, bool]:
    """Returns in words how alike they are, and whether that is enough, on each sample."""
    alike = [parity(*pair) for pair in zip(ours, expected, strict=True)]
    shared = [shared_neighbours(*pair) for pair in zip(ours, expected, strict=True)]
    same = min(alike) >= PARITY and min(shared) >= NEIGHBOURS
    words = f"cosine {min(alike):.4f}, neighbours {min(shared):.3f}"
    if len(ours) > 1:
        words += " (photographs too)"
    return words if same else f"{words}: not enough", bool(same)
