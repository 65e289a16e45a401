"""What decoding pictures may take: seconds, and room in memory."""

from __future__ import annotations

import contextlib
import ctypes
import io
import threading
import time
from collections import deque
from collections.abc import Iterator
from math import inf

from visrec_db import errors

LARGE = 16_000_000
"""Pixels that one picture may hold whatever else is decoded; a larger one waits for room."""

ROOM = 64_000_000
"""Pixels of large pictures that are decoded at the same time; a larger one is decoded alone."""

MALLOC_OPTIONS = {-8: 2, -3: 4 << 20, -1: 16 << 20}
"""glibc's M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD."""


def return_freed_memory() -> None:
    """Makes glibc return freed buffers to the operating system; elsewhere it does nothing.

    By itself, glibc learns from each large block that is freed to keep such blocks for the next,
    in each thread's own arena: over thousands of pictures the process grows to twice its size.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in MALLOC_OPTIONS.items():
            libc.mallopt(parameter, value)


def trim_memory() -> None:
    """Returns what lies free between smaller buffers, after a request with many of them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Room:
    """Pixels for large pictures, given out in the order in which they are asked for."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._inside: dict[object, int] = {}

    def enter(self, who: object, pixels: int) -> None:
        """Waits until there is room for ``pixels``, or nobody else inside."""

        def fits() -> bool:
            taken = sum(self._inside.values())
            return self._waiting[0] is who and (not taken or taken + pixels <= self._pixels)

        with self._changed:
            self._waiting.append(who)
            try:
                self._changed.wait_for(fits)
                self._inside[who] = pixels
            finally:
                self._waiting.remove(who)
                self._changed.notify_all()

    def leave(self, who: object) -> None:
        """Gives back what ``who`` has, if it has any."""
        with self._changed:
            if self._inside.pop(who, None) is not None:
                self._changed.notify_all()


_room = Room(ROOM)


class Attempt:
    """One attempt at a picture, which ends after ``seconds``; waiting for room does not count.

    Where the picture's data is asked for, an attempt ends itself (``Data``). One that is stuck
    inside a decoder cannot: whoever watches it sees that it is ``overdue``, and calls ``give_up``.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def overdue(self, grace: float = 0.0) -> bool:
        """Returns whether it has taken ``grace`` seconds more than it may."""
        return time.monotonic() > self._until + grace

    def timeout(self) -> errors.ImageTimeout:
        """Returns what is then wrong with the picture."""
        return errors.ImageTimeout(
            f"decoding the image takes longer than max_image_seconds = {self._seconds:g}"
        )

    @contextlib.contextmanager
    def room_for(self, pixels: int) -> Iterator[None]:
        """Holds room in memory; only large pictures wait for it."""
        if pixels <= LARGE:
            yield
            return
        left, self._until = self._until - time.monotonic(), inf
        try:
            _room.enter(self, pixels)
            self._until = time.monotonic() + left
            yield
        finally:
            _room.leave(self)

    def give_up(self) -> None:
        """Gives its room to others, though its thread has not ended."""
        _room.leave(self)


class Data(io.BytesIO):
    """A picture's bytes, which decoders can read until the attempt's time is over."""

    def __init__(self, data: bytes, attempt: Attempt) -> None:
        super().__init__(data)
        self._attempt = attempt

    def read(self, size: int | None = -1, /) -> bytes:
        if self._attempt.overdue():
            raise self._attempt.timeout()
        return super().read(size)
