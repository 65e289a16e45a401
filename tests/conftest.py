"""What tests of every tier share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The real pictures and models; tests that ask for it are marked ``data``."""
    data = Path(os.environ.get("VISREC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not data.is_dir():
        pytest.skip("no real pictures and models: VISREC_TEST_DATA names no directory")
    return data


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small real CLIP in sentence-transformers' layout. For reading only."""
    from tests import tiny_clip as model  # noqa: PLC0415 - imports torch: seconds

    return model.make(tmp_path_factory.mktemp("models") / "tiny-clip")
