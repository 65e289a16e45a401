"""What the tests of the backend share."""

from __future__ import annotations

import pytest

from visrec_db.backend import in_process, rows, session


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
