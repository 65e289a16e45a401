"""The encoder process's side of one connection: frames in, frames out, and signs of life."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from visrec_db import errors
from visrec_db.service import protocol

LOOK_EVERY = 0.2
"""Seconds between two looks whether the client has gone."""

T = TypeVar("T")


class Peer:
    """A client that sends requests, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._request: int | None = None

    def has_our_user(self) -> bool:
        """Returns whether the other process runs as the server's user."""
        peer = self._writer.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return bool(struct.unpack("3i", credentials)[1] == os.getuid())

    async def read(self) -> tuple[dict[str, Any], list[bytes]]:
        """Returns the next request and its blobs; ``ConnectionError`` or EOF where none comes."""
        length = await self._reader.readexactly(protocol.LENGTH.size)
        [size] = protocol.LENGTH.unpack(length)
        self._request = None
        if size > protocol.MAX_HEADER_BYTES:
            await self.send_error(protocol.header_too_long(size))
            raise ConnectionResetError
        header, lengths = protocol.unpack_header(await self._reader.readexactly(size))
        self._request = header["request"]
        return header, [await self._reader.readexactly(length) for length in lengths]

    async def send(self, header: dict[str, Any]) -> None:
        self._writer.write(protocol.pack({**header, "request": self._request}))
        await self._writer.drain()

    async def send_error(self, error: errors.VisrecError) -> None:
        await self.send({"error": error.as_dict(), "done": True})

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Waits with signs of life; ``ConnectionResetError`` when the client has gone."""
        task = asyncio.ensure_future(awaitable)
        quiet_since = time.monotonic()
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_EVERY))[0]:
                if self._reader.at_eof():
                    raise ConnectionResetError
                if time.monotonic() - quiet_since > protocol.ALIVE_EVERY:
                    quiet_since = time.monotonic()
                    await self.send({"alive": True})
            return task.result()
        finally:
            task.cancel()

    def close(self) -> None:
        self._writer.close()
