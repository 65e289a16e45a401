"""Starts the encoder process: the first backend that finds none does, while others wait for it."""

from __future__ import annotations

import fcntl
import os
import time

from visrec_db import errors
from visrec_db.service import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    import socket
    import subprocess
    from collections.abc import Callable

HOME = os.path.dirname(os.path.dirname(protocol.PACKAGE))
"""Where `make install` put the package, and the virtual environment beside it."""

PYTHON = os.path.join(HOME, "venv", "bin", "python")
"""What the encoder process runs with: not the Python that PostgreSQL embeds, but its libraries."""

MAX_START = 20.0
"""Seconds for the encoder process to open its socket (it loads models later)."""

POSTMASTER = os.getppid()


def start(checkpoint: Callable[[], None], idle_seconds: str) -> socket.socket:
    """Returns a connection to an encoder that this session or another one has started."""
    until = time.monotonic() + MAX_START
    try:
        lock = os.open(protocol.STARTING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.EncoderUnavailable(
            f"the encoder process cannot be started: {protocol.STARTING}: {error.strerror}"
        ) from error
    started: subprocess.Popen[bytes] | None = None
    try:
        while True:
            checkpoint()
            if os.getppid() != POSTMASTER:  # and no error of a row's: nothing may be committed now
                raise RuntimeError("the server's main process is gone")
            sock = protocol.connect()
            if sock is not None:
                return sock
            if started is None and _acquire(lock):
                # Looked again with the lock in hand: the session before may have started it.
                sock = protocol.connect()
                if sock is not None:
                    return sock
                started = _spawn(idle_seconds)
            if started is not None and started.poll() not in (None, 0):
                raise errors.EncoderUnavailable(f"the encoder process ended: {_last_words()}")
            if time.monotonic() > until:
                raise errors.EncoderUnavailable(
                    f"the encoder process did not start in {MAX_START:.0f} s: {_last_words()}"
                )
            time.sleep(0.01)
    finally:
        os.close(lock)
        if started is not None and started.poll() is None:
            started.returncode = 0  # the process that stays as the encoder's parent: see server


def _acquire(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(idle_seconds: str) -> subprocess.Popen[bytes]:
    """Starts the process that becomes the encoder: nothing of this backend's but its user."""
    import subprocess  # noqa: PLC0415 - 5 ms that only the session that starts it needs

    if not os.path.exists(PYTHON):
        raise errors.EncoderUnavailable(
            f'program "{PYTHON}" does not exist',
            hint="Build the environment on the server: make venv.",
        )
    with open("postmaster.pid", encoding="utf-8") as file:
        postmaster = file.readline().strip()
    script = (
        f"import sys; sys.path.insert(0, {os.path.dirname(protocol.PACKAGE)!r});"
        " from visrec_db.service import server; server.main()"
    )
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    with open(protocol.LOG, "ab") as log:
        return subprocess.Popen(  # noqa: S603 - the installed Python, fixed arguments
            [PYTHON, "-I", "-c", script, postmaster, idle_seconds],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            close_fds=True,
            start_new_session=True,
        )


def _last_words() -> str:
    try:
        with open(protocol.LOG, encoding="utf-8", errors="replace") as log:
            words = [line.strip() for line in log if line.strip()]
    except OSError:
        words = []
    return words[-1] if words else "it wrote nothing"
