"""What the tests of the backend share."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from visrec_db.backend import client, in_process, rows, session, starting
from visrec_db.service import protocol


@pytest.fixture
def fresh_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of its own: no plan and no model is kept from another test."""
    monkeypatch.setattr(rows, "BATCH_SIZE", 64)
    monkeypatch.setattr(rows, "BYTES_BATCH_SIZE", 64)
    for statement in vars(session).values():
        if isinstance(statement, session.Statement):
            monkeypatch.setattr(statement, "_plan", None)
    monkeypatch.setattr(session, "_tables", {})
    monkeypatch.setattr(session, "_warned", set())
    monkeypatch.setattr(in_process, "_encoders", {})
    monkeypatch.setattr(in_process, "add_libraries", lambda: None)


@pytest.fixture
def data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[bytes]]:
    """A working directory with a postmaster (a process that sleeps), and a very long name."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    (directory / protocol.DIRECTORY).mkdir(parents=True)
    postmaster = subprocess.Popen(["sleep", "600"])
    (directory / "postmaster.pid").write_text(f"{postmaster.pid}\n{directory}\n")
    monkeypatch.chdir(directory)
    monkeypatch.setattr(starting, "PYTHON", sys.executable)
    monkeypatch.setattr(client, "_idle", [])
    yield postmaster
    for connection in client._idle:
        connection.close()
    postmaster.kill()
    postmaster.wait()
    deadline = time.monotonic() + 10
    while client.control("status", lambda: None) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def settings() -> dict[str, str]:
    """What an encoder of the tests is told."""
    return {
        "image_roots": "/nonexistent",
        "max_image_bytes": "1000000",
        "max_image_pixels": "1000000",
        "max_image_seconds": "20",
        "encoder_idle_seconds": "60",
    }
