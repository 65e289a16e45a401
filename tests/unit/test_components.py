"""The components that visrec.reduce indexes by, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from visrec_db import components, errors, reduction


@pytest.fixture(scope="module")
def vectors():
    """Unit vectors of 40 numbers around a mean far from 0, with less and less variance."""
    random = np.random.default_rng(3)
    drawn = random.standard_normal((600, 40)) * 0.9 ** np.arange(40) + 3 * np.eye(40)[0]
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def test_components_are_the_library_s(vectors):
    library = PCA(8, svd_solver="full").fit(vectors.astype(np.float64))
    found, share = components.components(vectors, 8)
    assert found.shape == (8, 40)
    assert np.abs((found * library.components_).sum(axis=1)) == pytest.approx(1, abs=1e-6)
    assert share == pytest.approx(library.explained_variance_ratio_.sum(), abs=1e-6)


def test_the_loss_is_counted_by_hand(vectors):
    found, _ = components.components(vectors, 4)
    neighbours, recall = components.loss(vectors, found)
    reduced = PCA(4, svd_solver="full").fit_transform(vectors.astype(np.float64))
    ten = many = 0.0
    for row in range(100):
        others = [n for n in range(len(vectors)) if n != row]
        near = sorted(others, key=lambda n: -float(vectors[n] @ vectors[row]))[:10]
        by_reduced = sorted(others, key=lambda n: float(np.linalg.norm(reduced[n] - reduced[row])))
        ten += len({*near} & {*by_reduced[:10]}) / 1000
        many += len({*near} & {*by_reduced[:100]}) / 1000
    assert (neighbours, recall) == (pytest.approx(ten), pytest.approx(many))
    assert neighbours < recall


def test_all_components_lose_nothing(vectors):
    found, share = components.components(vectors, 40)
    assert share == pytest.approx(1)
    assert components.loss(vectors, found) == (1, 1)


def test_an_answer_is_read_as_it_was_given(vectors):
    encoder = components.ComponentsEncoder()
    request = reduction.request(vectors.astype(">f4").tobytes(), 40, 3)
    [answer] = encoder.encode_texts([request])
    text = "[" + ",".join(f"{number:.9g}" for number in answer) + "]"
    parsed = reduction.parse_answer(text, 40)
    rows = [[float(n) for n in row[1:-1].split(",")] for row in parsed["components"]]
    found, share = components.components(vectors, 3)
    assert np.array_equal(np.array(rows, np.float32), found)
    assert parsed["variance"] == pytest.approx(share, abs=1e-6)
    assert 0 < parsed["neighbours"] <= parsed["recall"] <= 1


def test_a_vector_that_is_not_finite_is_refused(vectors):
    spoilt = vectors.copy()
    spoilt[5, 7] = np.nan
    request = reduction.request(spoilt.astype(">f4").tobytes(), 40, 3)
    with pytest.raises(errors.EncoderUnavailable, match="not finite"):
        components.ComponentsEncoder().encode_texts([request])
