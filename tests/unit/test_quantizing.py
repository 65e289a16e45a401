"""8-bit weights, and what must be so before they are used."""

from __future__ import annotations

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


def test_neighbours_tell_what_the_mean_cosine_hides() -> None:
    expected = vectors()
    ours = expected.copy()
    assert quantizing.shared_neighbours(ours, expected) == 1
    ours[:20] = ours[:20][::-1]
    assert quantizing.shared_neighbours(ours, expected) < 0.95
