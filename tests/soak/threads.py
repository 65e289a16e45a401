"""Threads that work until they are told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Threads:
    """``raised`` has what any of them raised; none is stopped by another's end."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.raised: list[Exception] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], object]) -> None:
        def safely() -> None:
            try:
                work()
            except Exception as error:
                self.raised.append(error)

        self._threads.append(threading.Thread(target=safely, daemon=True))
        self._threads[-1].start()

    def join(self, within: float = 150.0) -> int:
        """Wait for all to end; how many did not."""
        self.stop.set()
        until = time.monotonic() + within
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
        return sum(thread.is_alive() for thread in self._threads)
