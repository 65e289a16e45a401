"""Time and room for one picture, and the memory of many."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from visrec_db import errors
from visrec_db.pictures import limits

MEGA = 1_000_000


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> limits.Room:
    room = limits.Room(64 * MEGA)
    monkeypatch.setattr(limits, "_room", room)
    return room


class Holder(threading.Thread):
    """Takes room for so many megapixels, and keeps it until it is let go."""

    def __init__(self, pixels: int, seconds: float = 60) -> None:
        super().__init__(daemon=True)
        self.attempt = limits.Attempt(seconds)
        self.inside, self.let_go = threading.Event(), threading.Event()
        self._pixels = pixels * MEGA
        self.start()

    def run(self) -> None:
        with self.attempt.room_for(self._pixels):
            self.inside.set()
            self.let_go.wait(10)
        self.inside.clear()


def waits(room: limits.Room, count: int) -> None:
    until(lambda: len(room._waiting) == count)


def test_data_can_be_read_until_the_time_is_over() -> None:
    data = limits.Data(b"abcdef", limits.Attempt(60))
    assert (data.read(2), data.read(), data.read()) == (b"ab", b"cdef", b"")
    late = limits.Data(b"abcdef", limits.Attempt(0.05))
    assert late.read(2) == b"ab"
    time.sleep(0.06)
    with pytest.raises(errors.ImageTimeout, match=r"max_image_seconds = 0\.05"):
        late.read(2)


def test_one_giant_is_decoded_at_a_time(room: limits.Room) -> None:
    first, second = Holder(100), Holder(100)
    assert first.inside.wait(10)
    waits(room, 1)
    assert not second.inside.is_set()
    first.let_go.set()
    assert second.inside.wait(10)
    second.let_go.set()


def test_what_fits_goes_together_and_the_first_come_first(room: limits.Room) -> None:
    first, second = Holder(24), Holder(24)
    assert first.inside.wait(10)
    assert second.inside.wait(10)
    giant = Holder(100)
    waits(room, 1)
    later = Holder(24)
    waits(room, 2)
    first.let_go.set()
    time.sleep(0.05)
    assert not later.inside.is_set(), "it overtook"
    second.let_go.set()
    assert giant.inside.wait(10)
    assert not later.inside.is_set()
    giant.let_go.set()
    assert later.inside.wait(10)
    later.let_go.set()


def test_other_pictures_wait_for_nothing(room: limits.Room) -> None:
    giant = Holder(100)
    assert giant.inside.wait(10)
    small = Holder(16)
    assert small.inside.wait(10)
    giant.let_go.set()
    small.let_go.set()


def test_waiting_for_room_takes_none_of_its_time(room: limits.Room) -> None:
    giant = Holder(100)
    assert giant.inside.wait(10)
    second = Holder(100, seconds=0.2)
    time.sleep(0.4)
    assert not second.attempt.overdue()
    giant.let_go.set()
    assert second.inside.wait(10)
    assert not second.attempt.overdue()
    until(second.attempt.overdue)
    second.let_go.set()


def test_one_that_is_given_up_lets_others_in(room: limits.Room) -> None:
    giant, second = Holder(100), Holder(100)
    assert giant.inside.wait(10)
    giant.attempt.give_up()
    assert second.inside.wait(10)
    giant.let_go.set()  # it comes back, and takes nothing from the other
    giant.join(10)
    third = Holder(100)
    waits(room, 1)
    assert not third.inside.is_set()
    second.let_go.set()
    assert third.inside.wait(10)
    third.let_go.set()


LARGE_BLOCKS = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from visrec_db.pictures import limits
limits.return_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks rest".split()]
    _fields_ += [("more", ctypes.c_size_t * 6)]
libc.mallinfo2.restype = Info
libc.free(libc.malloc(8 << 20))  # from this one, glibc would learn to keep the next
before = libc.mallinfo2().hblks
block = libc.malloc(8 << 20)
print(libc.mallinfo2().hblks - before)
"""


def test_large_blocks_go_back_to_the_system() -> None:
    package = str(Path(limits.__file__).parents[2])
    command = [sys.executable, "-c", LARGE_BLOCKS, package]
    assert subprocess.check_output(command, text=True) == "1\n"
