"""What a backend uses to reach the encoder process.

A session has a connection for each request that is going on: a trigger may ask for vectors while
the statement that fired it still receives its own. All waiting is done in short steps with
``checkpoint`` between them, so that a cancel takes effect at once; it closes the connection, and
the work is dropped.
"""

from __future__ import annotations

import select
import socket
import time
from itertools import count

from visrec_db import errors
from visrec_db.backend import starting
from visrec_db.results import Embedding, Look
from visrec_db.service import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    from collections.abc import Callable, Generator, Sequence
    from typing import Any

    from visrec_db.backend.in_process import Model

    Checkpoint = Callable[[], None]

STEP = 0.05
"""Seconds between two looks whether the statement was canceled."""

MAX_ATTEMPTS = 4
"""Encoder processes that may end under a request before it is given up."""

MAX_IDLE = 2
"""Connections that a session keeps between its requests."""

STAMPS_PER_REQUEST = 1000

_numbers = count(1)
_idle: list[Connection] = []


class EncoderGone(Exception):
    """The connection ended before the answer was complete."""


class Connection:
    """One connection to the encoder; ``request`` yields the frames of an answer.

    ``ahead_of`` is who named, in the last request, images that would be asked for next.
    """

    def __init__(self, sock: socket.socket, checkpoint: Checkpoint) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self._buffer = bytearray()
        self.checkpoint = checkpoint
        self.ahead_of: object = None

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
    ) -> Generator[dict[str, Any]]:
        """Sends a request and yields its frames; raises ``EncoderGone`` if the other side ends."""
        number = next(_numbers)
        finished = False
        try:
            self._send(
                protocol.pack({**header, "build": protocol.build(), "request": number}, blobs)
            )
            while not finished:
                answer = self._receive()
                if answer["request"] not in (number, None):  # None: it was not even read
                    raise EncoderGone("it answered another request")
                if not answer.get("alive"):
                    finished = bool(answer.get("done"))
                    yield answer
        finally:
            if not finished:  # canceled, broken, or no longer wanted: no answer must be left over
                self.close()

    def _wait(self, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        while True:
            self.checkpoint()
            if poll.poll(STEP * 1000):
                return
            if time.monotonic() > until:
                raise errors.EncoderUnavailable(
                    f"the encoder process gave no sign of life for {protocol.MAX_SILENCE:.0f} s",
                    hint="To start another one: SELECT visrec.encoder_restart();",
                )

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait(select.POLLOUT, until=time.monotonic() + protocol.MAX_SILENCE)
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise EncoderGone(str(error)) from error

    def _receive(self) -> dict[str, Any]:
        size = protocol.LENGTH.unpack(self._read(protocol.LENGTH.size))[0]
        return protocol.unpack_header(self._read(size))[0]

    def _read(self, size: int) -> bytes:
        until = time.monotonic() + protocol.MAX_SILENCE
        while len(self._buffer) < size:
            self._wait(select.POLLIN, until=until)
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError as error:
                raise EncoderGone(str(error)) from error
            if not data:
                raise EncoderGone("it closed the connection")
            self._buffer += data
            until = time.monotonic() + protocol.MAX_SILENCE
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found


def take(
    checkpoint: Checkpoint, idle_seconds: str, run: object = None, continues: bool = False
) -> Connection:
    """Returns a connection that no other request uses, to an encoder that is started if need be.

    With ``continues``, the one on which the request before told what ``run`` would ask for next.
    """
    for connection in [c for c in _idle if c.closed]:
        connection.close()
        _idle.remove(connection)
    told = [connection for connection in _idle if connection.ahead_of == run]
    if not continues:
        for connection in told:  # what was told in an earlier run holds no longer
            connection.ahead_of = None
    free = (told if continues else []) + [c for c in _idle if c.ahead_of is None]
    if free:
        _idle.remove(free[0])
        free[0].checkpoint = checkpoint
        return free[0]
    sock = protocol.connect()
    if sock is None:
        sock = starting.start(checkpoint, idle_seconds)
    return Connection(sock, checkpoint)


def give_back(connection: Connection) -> None:
    """Keeps a connection whose conversation is over for the requests to come."""
    if connection.closed:
        connection.close()
        return
    _idle.append(connection)
    while len(_idle) > MAX_IDLE:
        _idle.pop(0).close()


class Shared:
    """Embeds through the encoder process; the counterpart of ``InProcess``.

    ``run`` is the same for the calls of which each names what the next will ask for; by default,
    those of this object.
    """

    def __init__(
        self,
        model: Model | None,
        settings: dict[str, str],
        checkpoint: Checkpoint,
        bulk: bool,
        run: object = None,
    ) -> None:
        self._header = {
            "model": model and [model.name, model.directory, model.fingerprint],
            "policy": protocol.policy(settings),
            "bulk": bulk,
        }
        self._idle_seconds = settings["encoder_idle_seconds"]
        self._checkpoint = checkpoint
        self._run = run or self

    def embed_images(
        self, sources: Sequence[Any], ahead: Sequence[str] = (), continues: bool = False
    ) -> Generator[list[Embedding | errors.ImageError]]:
        """Yields consecutive slices of the results, in order, as they come.

        ``ahead`` are the paths that will be asked for next: the encoder goes on with them while
        these results are stored. ``continues``: the request before named these as its ``ahead``.
        """
        for answers in self._results("images", sources, ahead, continues):
            yield [_result(found, Embedding) for found in answers]

    def looks(self, sources: Sequence[Any]) -> Generator[list[Look | errors.ImageError]]:
        """Yields what each image looks like, as ``embed_images`` does."""
        for answers in self._results("perceptual", sources):
            yield [_result(found, Look) for found in answers]

    def embed_text(self, query: str) -> str:
        """Returns the text's vector as text."""
        return str(self._answer({"op": "text", "query": query})["embedding"])

    def dimension(self) -> int:
        """Returns how many numbers the model's vectors have; loads it."""
        return int(self._answer({"op": "warm"})["dimension"])

    def inspect(self) -> dict[str, Any]:
        """Returns the model's ``fingerprint`` and ``dimension``, and why it is ``slow``, if so."""
        answer = self._answer({"op": "inspect"})
        return {name: answer[name] for name in ("fingerprint", "dimension", "slow")}

    def components(self, sample: bytes, dimension: int, dims: int) -> dict[str, Any]:
        """Returns what ``service.components.compute`` does."""
        answer = self._answer({"op": "components", "dimension": dimension, "dims": dims}, [sample])
        names = ("components", "variance", "neighbours", "recall")
        return {name: answer[name] for name in names}

    def file_stamps(self, paths: Sequence[str]) -> list[int | None]:
        """Returns the stamp of each file as it is now; None where it has none."""
        stamps: list[int | None] = []
        for start in range(0, len(paths), STAMPS_PER_REQUEST):
            some = list(paths[start : start + STAMPS_PER_REQUEST])
            stamps += self._answer({"op": "stamps", "paths": some})["stamps"]
        return stamps

    def _results(
        self, op: str, sources: Sequence[Any], ahead: Sequence[str] = (), continues: bool = False
    ) -> Generator[list[Any]]:
        """Yields slices of the results as they come on the wire, of as many requests as it takes.

        An encoder that ends in the middle is started again for what is missing; ``MAX_ATTEMPTS``
        ends without a single result are an error.
        """
        done, left = 0, MAX_ATTEMPTS
        while done < len(sources):
            items, blobs = _portion(sources, done)
            last = done + len(items) == len(sources)
            request = {
                "op": op,
                "items": items,
                "ahead": list(ahead) if last else [],
                "continues": continues and done == 0,
            }
            try:
                for answer in self._ask(request, blobs):
                    results = answer.get("results")
                    if results:
                        done, left = done + len(results), MAX_ATTEMPTS
                        yield results
            except EncoderGone as gone:
                left = self._try_again(left, gone)

    def _answer(self, request: dict[str, Any], blobs: Sequence[bytes] = ()) -> dict[str, Any]:
        left = MAX_ATTEMPTS
        while True:
            try:
                return list(self._ask(request, blobs))[-1]
            except EncoderGone as gone:
                left = self._try_again(left, gone)

    def _try_again(self, left: int, gone: EncoderGone) -> int:
        """Returns the attempts that are left after one failed, after a moment."""
        if left == 1:
            raise errors.EncoderUnavailable(
                f"the encoder process ended {MAX_ATTEMPTS} times while it worked on this: {gone}",
                hint=f"See {protocol.LOG} in the data directory.",
            ) from gone
        until = time.monotonic() + STEP * 5 ** (MAX_ATTEMPTS - left)  # 0.05, 0.25, 1.25 s
        while time.monotonic() < until:
            self._checkpoint()
            time.sleep(STEP)
        return left - 1

    def _ask(
        self, request: dict[str, Any], blobs: Sequence[bytes] = ()
    ) -> Generator[dict[str, Any]]:
        """Yields the frames of an answer, on a connection of its own until they are over."""
        until = time.monotonic() + starting.MAX_START
        while True:
            continues = request.get("continues", False)
            connection = take(self._checkpoint, self._idle_seconds, self._run, continues)
            if connection.ahead_of is None:  # it was told nothing of this
                request = {**request, "continues": False}
            connection.ahead_of = self._run if request.get("ahead") else None
            frames = connection.request({**self._header, **request}, blobs)
            try:
                for answer in frames:
                    if answer.get("other_build"):  # it ends, and ours is started
                        break
                    if "error" in answer:
                        raise errors.from_dict(answer["error"])
                    yield answer
                else:
                    return
            finally:
                frames.close()
                give_back(connection)
            if time.monotonic() > until:
                raise errors.EncoderUnavailable("an encoder of another version does not end")
            connection.close()
            time.sleep(0.02)


def _portion(sources: Sequence[Any], start: int) -> tuple[list[str | None], list[bytes]]:
    """Returns the images from ``start`` on that go into one request: paths, and None for a blob."""
    items: list[str | None] = []
    blobs: list[bytes] = []
    size = 0
    for source in sources[start:]:
        if isinstance(source, str):
            items.append(source)
            continue
        size += len(source)
        if blobs and size > protocol.MAX_BLOB_BYTES:
            break
        items.append(None)
        blobs.append(bytes(source))
    return items, blobs


def _result(found: Any, kind: type[Any]) -> Any:
    """Makes what was sent of an image that is fine, or its ``ImageError``; raises other errors."""
    if isinstance(found, list):
        return kind(*found)
    error = errors.from_dict(found)
    if not isinstance(error, errors.ImageError):
        raise error
    return error


def control(op: str, checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Returns what a running encoder answers to ``status`` or ``stop``; None where none runs."""
    sock = protocol.connect()
    if sock is None:
        return None
    connection = Connection(sock, checkpoint)
    try:
        return next(connection.request({"op": op}), None)
    except EncoderGone:
        return None
    finally:
        connection.close()


def stop(checkpoint: Checkpoint) -> bool:
    """Ends a running encoder and waits until it is gone; False where none runs."""
    until = time.monotonic() + starting.MAX_START
    found = False
    while (sock := protocol.connect()) is not None:
        sock.close()
        if not found:
            control("stop", checkpoint)
            found = True
        checkpoint()
        if time.monotonic() > until:
            raise errors.EncoderUnavailable("the encoder process does not end")
        time.sleep(0.01)
    return found
