"""What a backend uses to reach the encoder process: the standard library only.

A backend's working directory is its data directory, so the socket's path is short however long
the data directory's is. The first backend that finds no encoder starts one; a lock lets one do it
while the others wait for the socket. All waiting is done in short steps with ``checkpoint`` between
them, so that a cancel takes effect at once; it closes the connection, and the work is dropped.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import time

from visrec_db import __version__, errors, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    import subprocess
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    Checkpoint = Callable[[], None]

PACKAGE = os.path.dirname(os.path.abspath(__file__))

HOME = os.path.dirname(os.path.dirname(PACKAGE))
"""Where `make install` put the package, and the virtual environment beside it."""

PYTHON = os.path.join(HOME, "venv", "bin", "python")
"""What the encoder process runs with: not the Python that PostgreSQL embeds, but its libraries."""

STEP = 0.05  # seconds between two looks whether the statement was cancelled
START_WITHIN = 20.0
"""Seconds for the encoder process to open its socket (it loads models later)."""

POSTMASTER = os.getppid()
ATTEMPTS = 4  # encoder processes that may end under a request before it is given up
ERRORS = {
    cls.code: cls
    for base in (errors.ImageError, errors.EncoderError)
    for cls in base.__subclasses__()
}


class EncoderGone(Exception):
    """The connection ended before the answer was complete."""


def build() -> str:
    """What must be the same on both sides: the version and the installed files."""
    return f"{__version__}+{os.stat(PACKAGE).st_mtime_ns:x}"


class Connection:
    """One connection to the encoder; ``request`` yields the frames of an answer."""

    def __init__(self, sock: socket.socket, checkpoint: Checkpoint) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self._buffer = bytearray()
        self.checkpoint = checkpoint

    @property
    def closed(self) -> bool:
        """Whether either side has closed it."""
        if self._socket.fileno() < 0:
            return True
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()

    def request(
        self, header: dict[str, Any], blobs: Sequence[bytes] = ()
    ) -> Iterator[dict[str, Any]]:
        """Send a request and yield its frames; raises ``EncoderGone`` if the other side ends."""
        finished = False
        try:
            self._send(protocol.pack({**header, "build": build()}, blobs))
            while True:
                answer = self._receive()
                if answer.get("alive"):
                    continue
                finished = bool(answer.get("done"))
                yield answer
                if finished:
                    return
        finally:
            if not finished:  # cancelled, broken, or no longer wanted: no answer must be left over
                self.close()

    def _wait(self, reading: bool, until: float) -> None:
        while True:
            self.checkpoint()
            sockets = [self._socket]
            ready = select.select(sockets if reading else [], [] if reading else sockets, [], STEP)
            if ready[0] or ready[1]:
                return
            if time.monotonic() > until:
                raise errors.EncoderUnavailable(
                    f"the encoder process gave no sign of life for {protocol.SILENCE:.0f} s",
                    hint="SELECT visrec.encoder_restart();",
                )

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait(reading=False, until=time.monotonic() + protocol.SILENCE)
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise EncoderGone(str(error)) from error

    def _receive(self) -> dict[str, Any]:
        size = protocol.LENGTH.unpack(self._read(protocol.LENGTH.size))[0]
        return protocol.unpack_header(self._read(size))[0]

    def _read(self, count: int) -> bytes:
        until = time.monotonic() + protocol.SILENCE
        while len(self._buffer) < count:
            self._wait(reading=True, until=until)
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError as error:
                raise EncoderGone(str(error)) from error
            if not data:
                raise EncoderGone("it closed the connection")
            self._buffer += data
            until = time.monotonic() + protocol.SILENCE
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found


_connection: Connection | None = None


def connect(checkpoint: Checkpoint, idle_seconds: str) -> Connection:
    """This session's connection, to an encoder that is started if there is none."""
    global _connection  # noqa: PLW0603 - one for the session
    if _connection is not None and _connection.closed:
        _connection.close()
        _connection = None
    if _connection is None:
        sock = open_socket()
        if sock is None:
            sock = _start(checkpoint, idle_seconds)
        _connection = Connection(sock, checkpoint)
    _connection.checkpoint = checkpoint
    return _connection


def running(checkpoint: Checkpoint) -> Connection | None:
    """A connection to the encoder if one runs; none is started."""
    return None if (sock := open_socket()) is None else Connection(sock, checkpoint)


def open_socket() -> socket.socket | None:
    """A connection to the encoder; None where none listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(protocol.SOCKET)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise errors.EncoderUnavailable(f"the encoder's socket: {error.strerror}") from error
    return sock


def _start(checkpoint: Checkpoint, idle_seconds: str) -> socket.socket:
    """Start the encoder process, or wait for another session that is at it."""
    until = time.monotonic() + START_WITHIN
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
            sock = open_socket()
            if sock is not None:
                return sock
            if started is None and _locked(lock):
                # Looked again with the lock in hand: the one before us may have started it.
                sock = open_socket()
                if sock is not None:
                    return sock
                started = _spawn(idle_seconds)
            if started is not None and started.poll() not in (None, 0):
                raise errors.EncoderUnavailable(f"the encoder process ended: {_last_words()}")
            if time.monotonic() > until:
                raise errors.EncoderUnavailable(
                    f"the encoder process did not start in {START_WITHIN:.0f} s: {_last_words()}"
                )
            time.sleep(0.01)
    finally:
        os.close(lock)
        if started is not None and started.poll() is None:
            started.returncode = 0  # the process that stays as the encoder's parent: see server


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(idle_seconds: str) -> subprocess.Popen[bytes]:
    """The process that becomes the encoder: nothing of this backend's but its user."""
    import subprocess  # noqa: PLC0415 - 5 ms that only the session that starts it needs

    if not os.path.exists(PYTHON):
        raise errors.EncoderUnavailable(
            f'there is no "{PYTHON}"',
            hint="Build it on the server: make venv.",
        )
    with open("postmaster.pid", encoding="utf-8") as file:
        postmaster = file.readline().strip()
    script = (
        f"import sys; sys.path.insert(0, {os.path.dirname(PACKAGE)!r});"
        " from visrec_db import server; server.main()"
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


class Shared:
    """Embeds through the encoder process; the counterpart of ``InProcess``."""

    def __init__(
        self, model: Any, settings: dict[str, str], checkpoint: Checkpoint, bulk: bool
    ) -> None:
        self._header = {
            "model": [model.name, model.directory, model.fingerprint],
            "policy": protocol.policy(settings),
            "bulk": bulk,
        }
        self._idle_seconds = settings["encoder_idle_seconds"]
        self._checkpoint = checkpoint

    def embed_images(
        self, sources: Sequence[Any], ahead: Sequence[str] = (), continues: bool = False
    ) -> Iterator[list[str | errors.ImageError]]:
        """Consecutive slices of the results, in order, as they come.

        ``ahead`` are the paths that will be asked for next: the encoder goes on with them while
        these results are stored. ``continues``: the request before named these as its ``ahead``.

        An encoder that ends in the middle is started again for what is missing; ``ATTEMPTS`` ends
        without a single result are an error.
        """
        done, left = 0, ATTEMPTS
        while True:
            rest = sources[done:]
            items = [source if isinstance(source, str) else None for source in rest]
            blobs = [bytes(source) for source in rest if not isinstance(source, str)]
            try:
                request = {"op": "images", "items": items, "ahead": list(ahead)}
                for answer in self._ask({**request, "continues": continues}, blobs):
                    results = [_result(result) for result in answer.get("results", [])]
                    if results:
                        done, left = done + len(results), ATTEMPTS
                        yield results
                return
            except EncoderGone as gone:
                left = self._try_again(left, gone)

    def embed_text(self, query: str) -> str:
        """The text's vector as text."""
        return str(self._answer({"op": "text", "query": query})["embedding"])

    def dimension(self) -> int:
        """How many numbers the model's vectors have; loads it."""
        return int(self._answer({"op": "warm"})["dimension"])

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        left = ATTEMPTS
        while True:
            try:
                return list(self._ask(request))[-1]
            except EncoderGone as gone:
                left = self._try_again(left, gone)

    def _try_again(self, left: int, gone: EncoderGone) -> int:
        """Attempts that are left after one failed, with a moment before the next."""
        if left == 1:
            message = f"the encoder process ended {ATTEMPTS} times while it worked on this: {gone}"
            hint = f"See {protocol.LOG} in the data directory."
            raise errors.EncoderUnavailable(message, hint) from gone
        until = time.monotonic() + STEP * 5 ** (ATTEMPTS - left)  # 0.05, 0.25, 1.25 s
        while time.monotonic() < until:
            self._checkpoint()
            time.sleep(STEP)
        return left - 1

    def _ask(
        self, request: dict[str, Any], blobs: Sequence[bytes] = ()
    ) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + START_WITHIN
        while True:
            connection = connect(self._checkpoint, self._idle_seconds)
            for answer in connection.request({**self._header, **request}, blobs):
                if answer.get("other_build"):  # an older or newer one: it ends, we start ours
                    break
                if "error" in answer:
                    raise _error(answer["error"])
                yield answer
            else:
                return
            if time.monotonic() > until:
                raise errors.EncoderUnavailable("an encoder of another version does not end")
            connection.close()
            time.sleep(0.02)


def _error(found: dict[str, Any]) -> errors.VisrecError:
    cls = ERRORS.get(found["code"], errors.EncoderUnavailable)
    return cls(found["message"], found.get("hint"))


def _result(found: Any) -> str | errors.ImageError:
    if isinstance(found, str):
        return found
    error = _error(found)
    if not isinstance(error, errors.ImageError):
        raise error
    return error


def control(op: str, checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What a running encoder answers to ``status`` or ``stop``; None where none runs."""
    connection = running(checkpoint)
    if connection is None:
        return None
    try:
        return next(connection.request({"op": op}), None)
    except EncoderGone:
        return None
    finally:
        connection.close()


def stop(checkpoint: Checkpoint) -> bool:
    """End a running encoder and wait until it is gone; False where none runs."""
    until = time.monotonic() + START_WITHIN
    found = False
    while (connection := running(checkpoint)) is not None:
        connection.close()
        if not found:
            control("stop", checkpoint)
            found = True
        checkpoint()
        if time.monotonic() > until:
            raise errors.EncoderUnavailable("the encoder process does not end")
        time.sleep(0.01)
    return found
