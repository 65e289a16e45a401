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
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visrec_db import errors, limits, protocol
from visrec_db.client import build, open_socket

MOST_LOG = 8 << 20
"""Bytes of the log before it is emptied."""

WAIT_FOR_ANOTHER = 15.0
"""Seconds that a process which is about to end may take for it."""

Frame = tuple[dict[str, Any], list[bytes]]


def main() -> None:
    """``python -c … POSTMASTER_PID IDLE_SECONDS`` in the data directory."""
    postmaster, idle_seconds = int(sys.argv[1]), float(sys.argv[2])
    _detach(postmaster)
    if not _alone():
        return
    with contextlib.suppress(OSError):  # when memory runs out, this one goes before PostgreSQL
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    Path(protocol.LOG).write_text("", encoding="utf-8")
    limits.give_memory_back()
    asyncio.run(Server(postmaster, idle_seconds).serve())


def _alone() -> bool:
    """Hold the lock for the rest of this process; False where another one runs.

    One that holds it and answers nobody is about to end, as after a crash of the postmaster: it
    is waited for, since those who started this process wait for this one.
    """
    lock = os.open(protocol.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + WAIT_FOR_ANOTHER
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = open_socket()
            if other is not None:
                other.close()
                return False
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        else:
            return True


def _shorten_log() -> None:
    """Empty a log that has grown long: libraries write to it what they think of each picture."""
    status = os.fstat(sys.stderr.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size > MOST_LOG:
        os.ftruncate(sys.stderr.fileno(), 0)


def _detach(postmaster: int) -> None:
    """Leave the backend that started this process, which may end long before it.

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
    """Connections, requests and their answers; the work is the scheduler's."""

    def __init__(self, postmaster: int, idle_seconds: float) -> None:
        self._postmaster = postmaster
        self._idle_seconds = idle_seconds
        self._build = build()
        self._started = self._used = time.monotonic()
        self._busy = 0
        self._models: dict[tuple[str, str | None, str], Any] = {}
        self._scheduler: Any = None
        self._stop: asyncio.Event
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Listen until stopped, idle, or without a postmaster."""
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            loop.add_reader(os.pidfd_open(self._postmaster), self._stop.set)
        except OSError:
            return  # the postmaster is gone already
        listener = await self._listen()
        # numpy, Pillow and the rest take a moment to import: clients can already connect.
        from visrec_db.scheduler import Scheduler  # noqa: PLC0415

        self._scheduler = Scheduler(decoders=max(2, len(os.sched_getaffinity(0))))
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
            if not self._busy and time.monotonic() - self._used > self._idle_seconds:
                break
            if self._scheduler.ended():
                await asyncio.sleep(0.2)  # what is answered goes out; the rest will be asked again
                break
            _shorten_log()
        listener.close()
        Path(protocol.SOCKET).unlink(missing_ok=True)
        os._exit(0)  # not waiting for threads in the middle of a forward pass

    async def _listen(self) -> asyncio.AbstractServer:
        Path(protocol.SOCKET).unlink(missing_ok=True)  # a dead one's: we have the lock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            sock.bind(protocol.SOCKET)
        finally:
            os.umask(mask)
        sock.setblocking(False)
        return await asyncio.start_unix_server(self._converse, sock=sock, backlog=1024)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(reader, writer)
        try:
            peer = writer.get_extra_info("socket")
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", credentials)[1] != os.getuid():
                return
            while True:
                header, blobs = await _read_frame(reader)
                self._busy += 1
                try:
                    await self._answer(header, blobs, client)
                finally:
                    self._busy -= 1
                    self._used = time.monotonic()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            client.drop_ahead()
            writer.close()

    async def _answer(
        self,
        header: dict[str, Any],
        blobs: list[bytes],
        client: _Client,
    ) -> None:
        operation = header["op"]
        if header["build"] != self._build and operation not in ("stop", "status"):
            await client.send({"other_build": self._build, "done": True})
            self._stop.set()
            return
        if operation == "status":
            await client.send({**self._status(), "done": True})
        elif operation == "stop":
            await client.send({"done": True})
            self._stop.set()
        else:
            await self._work(operation, header, blobs, client)

    async def _work(
        self,
        operation: str,
        header: dict[str, Any],
        blobs: list[bytes],
        client: _Client,
    ) -> None:
        while self._scheduler is None:
            await asyncio.sleep(0.01)
        model = self._model(header["model"])
        try:
            if operation == "images":
                await self._images(model, header, blobs, client)
            elif operation == "text":
                embedding = await self._in_forward_thread(model, header["query"], client)
                await client.send({"embedding": embedding, "done": True})
            else:
                await self._in_forward_thread(model, None, client)
                await client.send({"dimension": model.encoder.dimension, "done": True})
        except errors.VisrecError as error:
            await client.send({"error": _as_dict(error), "done": True})

    async def _images(
        self, model: Any, header: dict[str, Any], blobs: list[bytes], client: _Client
    ) -> None:
        """Send results as they come, consecutive ones together, in order."""
        work = client.take_ahead(header) if header["continues"] else None
        client.drop_ahead()
        if work is None:
            given = iter(blobs)
            sources = [next(given) if item is None else item for item in header["items"]]
            work = self._submit(model, header, sources)
            del sources, given
            blobs.clear()
        if header["ahead"]:
            client.ahead = self._submit(model, header, header["ahead"])
        request, changed = work.request, work.changed
        sent = 0
        try:
            while sent < len(request.results):
                await client.wait(changed)
                changed.clear()
                end = sent
                while end < len(request.results) and request.results[end] is not None:
                    end += 1
                if end > sent:
                    found = [
                        _as_dict(result) if isinstance(result, errors.VisrecError) else result
                        for result in request.results[sent:end]
                    ]
                    request.results[sent:end] = [""] * (end - sent)
                    sent = end
                    done = sent == len(request.results)
                    await client.send({"results": found, "done": done})
        finally:
            request.cancelled = True  # what is left of it is wanted no more
        if not request.results:
            await client.send({"done": True})

    def _submit(self, model: Any, header: dict[str, Any], sources: list[Any]) -> _Work:
        from visrec_db import images, scheduler  # noqa: PLC0415 - see serve

        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        policy = header["policy"]

        def progress() -> None:
            loop.call_soon_threadsafe(changed.set)

        request = scheduler.Request(
            model,
            sources,
            images.Policy(**{**policy, "roots": tuple(policy["roots"])}),
            header["bulk"],
            progress,
        )
        self._scheduler.submit(request)
        return _Work([header["model"], policy, sources], request, changed)

    async def _in_forward_thread(
        self, model: Any, query: str | None, client: _Client
    ) -> str | None:
        """Load the model, and embed a text where there is one."""
        from visrec_db import encoder  # noqa: PLC0415 - see serve

        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        outcome: list[Any] = []

        def job() -> None:
            try:
                loaded = model.get()
                text = encoder.as_text(loaded.encode_texts([query])[0]) if query else None
                outcome.append(text)
            except errors.VisrecError as error:
                outcome.append(error)
            except Exception as error:
                outcome.append(errors.EncoderUnavailable(f"the model failed: {error!r}"))
            loop.call_soon_threadsafe(done.set)

        self._scheduler.run(job)
        await client.wait(done)
        if isinstance(outcome[0], errors.VisrecError):
            raise outcome[0]
        result: str | None = outcome[0]
        return result

    def _model(self, key: list[Any]) -> Any:
        from visrec_db.scheduler import Model  # noqa: PLC0415 - see serve

        name, directory, fingerprint = key
        return self._models.setdefault(
            (name, directory, fingerprint), Model(directory, fingerprint)
        )

    def _status(self) -> dict[str, Any]:
        scheduler = self._scheduler
        models = [
            {
                "model": name,
                "fingerprint": fingerprint,
                "runtime": model.encoder.runtime,
                "precision": model.encoder.precision,
                "device": model.encoder.device,
            }
            for (name, _, fingerprint), model in self._models.items()
            if model.encoder is not None
        ]
        return {
            "pid": os.getpid(),
            "models": models,
            "uptime": time.monotonic() - self._started,
            "images": scheduler.images if scheduler else 0,
            "batches": scheduler.batches if scheduler else 0,
            "waiting": scheduler.waiting() if scheduler else 0,
        }


@dataclass
class _Work:
    """Images at the scheduler. ``changed`` is set when results have come."""

    of: list[Any]
    request: Any
    changed: asyncio.Event


class _Client:
    """The other side of a connection. ``ahead`` is what it said it would ask for next."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.ahead: _Work | None = None

    def take_ahead(self, header: dict[str, Any]) -> _Work | None:
        """The work ahead, if it was for what this request asks for."""
        work = self.ahead
        if work is None or work.of != [header["model"], header["policy"], header["items"]]:
            return None
        self.ahead = None
        return work

    def drop_ahead(self) -> None:
        """Stop working ahead: the client went away, or asked for something else."""
        if self.ahead is not None:
            self.ahead.request.cancelled = True
            self.ahead = None

    async def send(self, header: dict[str, Any]) -> None:
        self._writer.write(protocol.pack(header))
        await self._writer.drain()

    async def wait(self, event: asyncio.Event) -> None:
        """Wait with signs of life; ``ConnectionResetError`` when the client has gone."""
        quiet_since = time.monotonic()
        while not event.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), 0.2)
            if self._reader.at_eof():
                raise ConnectionResetError
            if time.monotonic() - quiet_since > protocol.ALIVE_EVERY:
                quiet_since = time.monotonic()
                await self.send({"alive": True})


async def _read_frame(reader: asyncio.StreamReader) -> Frame:
    size = protocol.LENGTH.unpack(await reader.readexactly(protocol.LENGTH.size))[0]
    if size > protocol.MOST_HEADER:
        raise ConnectionResetError
    header, lengths = protocol.unpack_header(await reader.readexactly(size))
    return header, [await reader.readexactly(length) for length in lengths]


def _as_dict(error: errors.VisrecError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}
