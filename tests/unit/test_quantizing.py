"""8-bit weights, and what must be so before they are used."""

from __future__ import annotations

import time

import numpy as np
import pytest

from visrec_db.models import quantizing


@pytest.mark.parametrize(("inputs", "groups"), [(64, 1), (192, 3), (100, 1)])
def test_weights_come_back_to_within_half_a_step(inputs: int, groups: int) -> None:
    weights = np.random.default_rng(1).standard_normal((5, inputs)).astype(np.float32)
    weights[2] = 0
    numbers, scales = quantizing.int8(weights)
    assert (numbers.dtype, numbers.shape) == (np.int8, (5, groups, inputs // groups))
    assert scales.shape == (5, groups, 1)
    assert np.abs(numbers).max() == 127
    error = np.abs((numbers * scales).reshape(weights.shape) - weights)
    assert (error.reshape(numbers.shape) <= scales * 0.5001).all()


def vectors() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((200, 16)).astype(np.float32)


def model(noise: float, seconds: float) -> quantizing.Run:
    """Takes so long for a batch, and gives it back with noise."""
    random = np.random.default_rng(3)

    def run(batch: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        noisy: np.ndarray = batch + noise * random.standard_normal(batch.shape)
        return noisy

    return run


@pytest.mark.parametrize(
    ("noise", "seconds", "kept"),
    [(0.001, 0.002, True), (0.2, 0.002, False), (0.001, 0.02, False)],
    ids=["good", "other vectors", "no faster"],
)
def test_it_is_kept_only_where_it_is_as_good_and_faster(
    noise: float, seconds: float, kept: bool
) -> None:
    batches = np.split(vectors(), 10)
    assert quantizing.worth_it(model(0, 0.02), model(noise, seconds), batches) is kept


def test_neighbours_tell_what_the_mean_cosine_hides() -> None:
    expected = vectors()
    ours = expected.copy()
    assert quantizing.shared_neighbours(ours, expected) == 1
    ours[:20] = ours[:20][::-1]
    assert quantizing.shared_neighbours(ours, expected) < 0.95
