"""`visrec model pull` of a ViT-B/32 of full size, in the layout of the real repository. Slow."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from tests import tiny_clip as tiny
from tests.imitation_hub import Hub, as_on_the_hub
from tests.unit.test_cli import PICKLED, left, pull
from visrec_db.encoders import encoder


@pytest.mark.slow
def test_a_full_size_clip_is_fetched_once_and_compiled(tmp_path: Path) -> None:
    made = tiny.make(tmp_path / "made", full=True)
    as_on_the_hub(made)
    hub = Hub("sentence-transformers/clip-ViT-B-32", made)
    shutil.rmtree(made)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    directory = tmp_path / "models"
    start = time.perf_counter()
    status, output, problems = pull(directory, hub.url, seconds=900)
    print(f"{output}{time.perf_counter() - start:.0f} s")
    assert status == 0, problems
    assert "is compiled for pictures and texts (weights: f16" in output
    assert left(directory) == ["clip-ViT-B-32"]
    target = directory / "clip-ViT-B-32"
    assert not any(name.endswith(PICKLED) for name in hub.requests)
    fetched = sum(len(hub.files[name]) for name in hub.files if (target / name).exists())
    whole = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"fetched {fetched >> 20} MB, on disk with the compiled form {whole >> 20} MB")
    assert fetched < 700 << 20
    loaded = encoder.load(str(target))
    loaded.encode_texts(["warm"])
    start = time.perf_counter()
    assert loaded.encode_texts(["a red shoe"]).shape == (1, 512)
    print(f"{loaded.runtime}: {1000 * (time.perf_counter() - start):.0f} ms for a text")
    hub.shutdown()
    hub.socket.close()
