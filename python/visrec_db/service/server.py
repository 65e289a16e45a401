"""The encoder process: one for a cluster, started by the first backend that needs it.

It holds the models, and answers every session of the cluster over a local socket in the data
directory, which only the server's user may enter. It ends with the postmaster, however that ends,
and after an idle time; whoever calls next starts a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visrec_db.pictures import limits
from visrec_db.service import protocol
from visrec_db.service.peer import Peer

if TYPE_CHECKING:
    from visrec_db.service.conversation import Conversation, Service

MAX_LOG_BYTES = 8 << 20
"""Size of the log at which it is emptied."""

MAX_LOCK_WAIT = 15.0
"""Seconds that another process which is about to end may take for it."""

LARGE_REQUEST = 16 << 20
"""Bytes of images in a request, after which freed memory is returned."""


def main() -> None:
    """Runs ``python -c … POSTMASTER_PID IDLE_SECONDS`` in the data directory."""
    postmaster, idle_seconds = int(sys.argv[1]), float(sys.argv[2])
    _detach(postmaster)
    if not _acquire_lock():
        return
    with contextlib.suppress(OSError):  # when memory runs out, this one goes before PostgreSQL
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    Path(protocol.LOG).write_text("", encoding="utf-8")
    limits.return_freed_memory()
    asyncio.run(Server(postmaster, idle_seconds).serve())


def _acquire_lock() -> bool:
    """Holds the lock for the rest of this process; False where another one runs.

    One that holds it and answers nobody is about to end, as after a crash of the postmaster: it
    is waited for, since those who started this process wait for this one.
    """
    lock = os.open(protocol.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + MAX_LOCK_WAIT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = protocol.connect()
            if other is not None:
                other.close()
                return False
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        else:
            return True


def _shorten_log() -> None:
    """Empties a log that has grown long: libraries write to it what they think of each picture."""
    status = os.fstat(sys.stderr.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size > MAX_LOG_BYTES:
        os.ftruncate(sys.stderr.fileno(), 0)


def _detach(postmaster: int) -> None:
    """Leaves the backend that started this process, which may end long before it.

    Where the postmaster is process 1, as in a container, it becomes the parent of every orphan, and
    takes one that was killed for a crashed backend. There the first process stays as the
    parent, and ends without a fault whatever becomes of its child.
    """
    child = os.fork()
    if child == 0:
        return
    if postmaster == 1:
        with contextlib.suppress(OSError):
            os.waitpid(child, 0)
    os._exit(0)


class Server:
    """The socket, its connections, and when the process ends."""

    def __init__(self, postmaster: int, idle_seconds: float) -> None:
        self._postmaster = postmaster
        self._idle_seconds = idle_seconds
        self._build = protocol.build()
        self._started = self._used = time.monotonic()
        self._busy = 0
        self._stop: asyncio.Event
        self._service: Service

    async def serve(self) -> None:
        """Listens until stopped, idle, or without a postmaster."""
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            loop.add_reader(os.pidfd_open(self._postmaster), self._stop.set)
        except OSError:
            return  # the postmaster is gone already
        sock = _listen()
        # numpy, Pillow and the rest take a moment to import: clients can already connect.
        from visrec_db.service.conversation import Service  # noqa: PLC0415

        self._service = Service()
        listener = await asyncio.start_unix_server(self._converse, sock=sock, backlog=1024)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
            if self._busy or self._service.preparing.busy:
                self._used = time.monotonic()
            elif time.monotonic() - self._used > self._idle_seconds:
                break
            if self._service.scheduler.ended():
                await asyncio.sleep(0.2)  # what is answered goes out; the rest will be asked again
                break
            _shorten_log()
        listener.close()
        Path(protocol.SOCKET).unlink(missing_ok=True)
        os._exit(0)  # not waiting for threads in the middle of a forward pass

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from visrec_db.service.conversation import Conversation  # noqa: PLC0415 - see serve

        peer = Peer(reader, writer)
        conversation = Conversation(self._service, peer)
        try:
            while peer.has_our_user():
                header, blobs = await peer.read()
                size = sum(map(len, blobs))
                self._busy += 1
                try:
                    await self._answer(header, blobs, peer, conversation)
                finally:
                    self._busy -= 1
                    self._used = time.monotonic()
                    del header, blobs
                    if size > LARGE_REQUEST:
                        limits.trim_memory()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            conversation.close()
            peer.close()

    async def _answer(
        self, header: dict[str, Any], blobs: list[bytes], peer: Peer, conversation: Conversation
    ) -> None:
        operation = header["op"]
        if operation == "status":
            uptime = time.monotonic() - self._started
            status = {"pid": os.getpid(), "uptime": uptime, **self._service.status()}
            await peer.send({**status, "done": True})
        elif operation == "stop":
            await peer.send({"done": True})
            self._stop.set()
        elif header["build"] != self._build:
            await peer.send({"other_build": self._build, "done": True})
            self._stop.set()
        else:
            await conversation.answer(header, blobs)


def _listen() -> socket.socket:
    Path(protocol.SOCKET).unlink(missing_ok=True)  # a dead process's: this one has the lock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(protocol.SOCKET)
    finally:
        os.umask(mask)
    sock.setblocking(False)
    sock.listen(1024)
    return sock
