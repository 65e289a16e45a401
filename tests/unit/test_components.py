"""The components that visrec.reduce indexes by, against scikit-learn's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from visrec_db import errors
from visrec_db.service import components, protocol


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


def as_sample(vectors):
    return vectors.astype(">f4").tobytes()


def test_an_answer_gives_the_components_as_texts(vectors):
    answer = components.compute(as_sample(vectors), 40, 3)
    rows = [[float(n) for n in row[1:-1].split(",")] for row in answer["components"]]
    found, share = components.components(vectors, 3)
    assert np.array_equal(np.array(rows, np.float32), found)
    assert answer["variance"] == pytest.approx(share, abs=1e-6)
    assert 0 < answer["neighbours"] <= answer["recall"] <= 1


def test_a_child_process_gives_the_same(vectors):
    answer = asyncio.run(components.run_child(as_sample(vectors), 40, 3))
    assert answer == components.compute(as_sample(vectors), 40, 3)


def test_a_vector_that_is_not_finite_is_refused(vectors):
    spoilt = vectors.copy()
    spoilt[5, 7] = np.nan
    with pytest.raises(errors.InvalidRequest, match="not finite"):
        components.compute(as_sample(spoilt), 40, 3)
    answer = asyncio.run(components.run_child(as_sample(spoilt), 40, 3))
    assert (answer["error"]["code"], answer["error"]["sqlstate"]) == ("invalid_request", "22023")


@pytest.mark.parametrize(
    ("size", "dimension", "dims"),
    [
        (160, 0, 1), (160, -1, 1), (160, 40, 0), (160, 40, 41), (161, 40, 3), (164, 40, 3),
        (0, 40, 3), (80_000_160, 40, 3),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(size, dimension, dims):
    with pytest.raises(errors.InvalidRequest):
        protocol.check_sample(size, dimension, dims)


def test_a_checkpoint_stops_it(vectors):
    class Stop(Exception):
        pass

    def checkpoint():
        raise Stop

    with pytest.raises(Stop):
        components.compute(as_sample(vectors), 40, 3, checkpoint)


def test_a_child_ends_with_its_parent(vectors):
    """Without a fault: where the postmaster is process 1, it looks at every orphan's status."""
    script = "from visrec_db.service import components; components.main()"
    child = subprocess.Popen(
        [sys.executable, "-c", script, "4000", "5", "8000000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={"PYTHONPATH": str(Path(components.__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"},
    )
    child.stdin.write(
        np.random.default_rng(1).random(2_000_000, np.float32).astype(">f4").tobytes()
    )
    child.stdin.flush()
    child.stdin.close()
    assert child.wait(5) == 0
