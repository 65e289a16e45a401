"""Batches across sessions: which picture is decoded next, and which go into a forward pass.

Decoding threads and one forward thread work side by side. Small requests (a row or a few) go before
bulk ones everywhere, so that a backfill cannot starve an INSERT. A forward pass takes what waits at
that moment; only bulk pictures wait for a full batch, and only while more of them are on the way.

A thread cannot be stopped from outside. One that is stuck in a decoder longer than a picture may
take is given up: its picture has failed, another thread takes its place, and it ends when the
decoder lets it go. Too many of those and the scheduler is worn out: it takes up no more pictures.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from visrec_db import errors
from visrec_db.encoders.encoder import Encoder, as_text, load
from visrec_db.pictures import images, perceptual
from visrec_db.pictures.files import Policy
from visrec_db.pictures.limits import Attempt
from visrec_db.results import Embedding, Look

MAX_SMALL_IMAGES = 8
"""A request of at most so many images is small, unless it says that it is part of a bulk."""

RELOAD_AFTER = 1.0
"""Seconds before a model that did not load is tried again."""

MAX_READY_BATCHES = 4
"""Full batches of decoded bulk pictures that may wait for the forward pass."""

GRACE = 0.5
"""Seconds for a decoding thread to see for itself that its time is over."""

WATCH_EVERY = 0.2
"""Seconds between two looks at the pictures that are being decoded."""

MAX_LOST_THREADS = 4
"""Threads stuck in decoders with which the scheduler is worn out."""

MOST_HELD = 60.0
"""Seconds that bulk pictures wait for the compiled form, which makes good for them soon."""

Result = Embedding | Look | errors.VisrecError


@dataclass
class LazyEncoder:
    """A model that is loaded when the first picture needs it; one thread loads, others wait.

    ``loaded`` is called once it is, in the thread that loaded it. ``compiling``: since when torch
    runs it until its compiled form is there. ``slow``: why it will go on so, and what to do.
    """

    directory: str | None
    fingerprint: str | None = None
    load: Callable[[str | None, str | None], Encoder] = load
    encoder: Encoder | None = None
    loaded: Callable[[LazyEncoder], None] = lambda _: None
    compiling: float | None = None
    slow: tuple[str, str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _failed: tuple[float, errors.EncoderError] | None = None

    def get(self) -> Encoder:
        """Returns the loaded encoder; ``EncoderError`` where it cannot be loaded.

        A failure is told to all who ask within ``RELOAD_AFTER`` seconds without another attempt.
        """
        with self._lock:
            if self._failed is not None and time.monotonic() - self._failed[0] < RELOAD_AFTER:
                raise self._failed[1]
            if self.encoder is None:
                try:
                    self.encoder = self.load(self.directory, self.fingerprint)
                except errors.EncoderError as error:
                    self._failed = (time.monotonic(), error)
                    raise
                self.loaded(self)
            return self.encoder

    def holds_bulk(self) -> bool:
        """Returns whether bulk pictures had better wait for the compiled form."""
        return self.compiling is not None and time.monotonic() - self.compiling < MOST_HELD

    def replace(self, encoder: Encoder) -> None:
        """Goes on with another form of the same model, which takes the same prepared pictures."""
        with self._lock:
            self.encoder, self.compiling, self.slow = encoder, None, None


class Request:
    """Images of one client: to embed, or, where ``encoder`` is None, to give each its ``Look``.

    ``progress`` is called, in any thread, after each result.
    """

    def __init__(
        self,
        encoder: LazyEncoder | None,
        sources: Sequence[images.Source],
        policy: Policy,
        bulk: bool,
        progress: Callable[[], None],
    ) -> None:
        self.encoder = encoder
        self.policy = policy
        self.bulk = bulk
        self.small = not bulk and len(sources) <= MAX_SMALL_IMAGES
        self.cancelled = False
        self.progress = progress
        self.results: list[Result | None] = [None] * len(sources)
        self.items = [_Item(self, place, source) for place, source in enumerate(sources)]


@dataclass
class _Item:
    request: Request
    place: int
    source: images.Source | None
    prepared: Any = None
    stamp: int | None = None

    def finish(self, result: Result) -> None:
        self.source = self.prepared = None
        self.request.results[self.place] = result
        self.request.progress()


class Scheduler:
    """The threads and the queues between them."""

    def __init__(self, decoders: int) -> None:
        self._condition = threading.Condition()
        self._undecoded: tuple[deque[_Item], deque[_Item]] = (deque(), deque())  # small, bulk
        self._ready: tuple[deque[_Item], deque[_Item]] = (deque(), deque())
        self._decoding: dict[Attempt, _Item] = {}
        self._begun = threading.Event()
        self._decoding_bulk = 0
        self._lost = 0
        self._forwarding = False
        self._jobs: deque[Callable[[], None]] = deque()
        self.images = 0
        self.batches = 0
        for work in [self._decode_all] * decoders + [self._forward_all, self._watch]:
            _start(work)

    def submit(self, request: Request) -> None:
        """Queues a request's images."""
        with self._condition:
            self._undecoded[not request.small].extend(request.items)
            self._condition.notify_all()

    def run(self, job: Callable[[], None]) -> None:
        """Runs ``job`` in the forward thread, before the next batch (texts, loading a model)."""
        with self._condition:
            self._jobs.append(job)
            self._condition.notify_all()

    def waiting(self) -> int:
        """Returns how many images are queued or decoded and not yet embedded."""
        with self._condition:
            queues = (*self._undecoded, *self._ready)
            return sum(not item.request.cancelled for queue in queues for item in queue)

    def ended(self) -> bool:
        """Returns whether it is worn out, and what had been taken up is answered."""
        with self._condition:
            at_work = self._decoding or self._decoding_bulk or self._forwarding
            return self._worn_out() and not (at_work or self._ready[0] or self._ready[1])

    # Decoding ---------------------------------------------------------------------------------

    def _decode_all(self) -> None:
        while self._decode(self._next_undecoded()):
            pass

    def _decode(self, item: _Item) -> bool:
        """Decodes one picture; False if it was given up meanwhile, and this thread with it."""
        attempt: Attempt | None = None
        prepared: Any = None
        result: Result | None = None
        try:
            request, source = item.request, item.source
            if not request.cancelled and source is not None:
                encoder = request.encoder.get() if request.encoder is not None else None
                attempt = self._begin(item)
                content = images.read(source, request.policy)
                if encoder is None:
                    result = perceptual.look(content, request.policy, attempt)
                else:
                    smallest = encoder.smallest
                    picture = images.decode(content.data, request.policy, smallest, attempt)
                    prepared = encoder.prepare(picture)
                    item.stamp = content.stamp
        except errors.VisrecError as error:
            result = error
            # Its traceback, and those of its causes, hold this frame, and so the picture's bytes.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        except BaseException as error:
            result = errors.EncoderUnavailable(f"the decoder failed: {error!r}")
        with self._condition:
            if attempt is not None and self._decoding.pop(attempt, None) is None:
                self._lost -= 1
                self._condition.notify_all()
                return False
            item.prepared = prepared
            self._decoded(item, ready=prepared is not None)
        if result is not None:
            item.finish(result)
        return True

    def _begin(self, item: _Item) -> Attempt:
        """Starts the clock. Whoever takes the attempt out of ``_decoding`` has the result."""
        attempt = Attempt(item.request.policy.max_seconds)
        with self._condition:
            self._decoding[attempt] = item
            self._begun.set()
        return attempt

    def _watch(self) -> None:
        while self._begun.wait():
            with self._condition:
                if not self._decoding:
                    self._begun.clear()
                    continue
                overdue = [a for a in self._decoding if a.overdue(GRACE)]
                given_up = [(attempt, self._decoding.pop(attempt)) for attempt in overdue]
                self._lost += len(given_up)
                for _, item in given_up:
                    self._decoded(item, ready=False)
            for attempt, item in given_up:
                attempt.give_up()
                _start(self._decode_all)
                item.finish(attempt.timeout())
            time.sleep(WATCH_EVERY)

    def _worn_out(self) -> bool:
        return self._lost >= MAX_LOST_THREADS

    def _next_undecoded(self) -> _Item:
        small, bulk = self._undecoded
        with self._condition:
            while True:
                if self._worn_out():
                    self._condition.wait()
                    continue
                if small:
                    return small.popleft()
                if bulk and len(self._ready[1]) < MAX_READY_BATCHES * _batch(bulk[0]):
                    self._decoding_bulk += 1
                    return bulk.popleft()
                self._condition.wait()

    def _decoded(self, item: _Item, ready: bool) -> None:
        bulk = not item.request.small
        if bulk:
            self._decoding_bulk -= 1
        if ready:
            self._ready[bulk].append(item)
        self._condition.notify_all()

    # Forward passes ---------------------------------------------------------------------------

    def _forward_all(self) -> None:
        while True:
            with self._condition:
                self._forwarding = False
                while not (self._jobs or (batch := self._next_batch())):
                    self._condition.wait(WATCH_EVERY if self._ready[1] else None)
                self._forwarding = True
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                job()
            else:
                self._forward(batch)

    def _next_batch(self) -> list[_Item]:
        """Returns what goes into a forward pass now; nothing if it is worth waiting."""
        small, bulk = self._ready
        first = small[0] if small else next((item for item in bulk if not _held(item)), None)
        if first is None:
            return []
        size = _batch(first)
        waiting = self._undecoded[1] and not self._worn_out()
        more_bulk_comes = bool(self._decoding_bulk or waiting)
        if not small and len(bulk) < size and more_bulk_comes:
            return []
        encoder = first.request.encoder
        batch: list[_Item] = []
        for queue in (small, bulk):
            kept = [i for i in queue if i.request.encoder is not encoder or _held(i)]
            mine = [i for i in queue if i.request.encoder is encoder and not _held(i)]
            taken = mine[: size - len(batch)]
            batch += taken
            queue.clear()
            queue.extend([*mine[len(taken) :], *kept])
        self._condition.notify_all()  # there is room for decoded pictures again
        return batch

    def _forward(self, batch: list[_Item]) -> None:
        batch = [item for item in batch if not item.request.cancelled]
        if not batch:
            return
        encoder = batch[0].request.encoder
        if encoder is None:  # looks are finished when they are decoded
            raise AssertionError("a look waits for a forward pass")
        try:
            vectors = encoder.get().encode_prepared([item.prepared for item in batch])
            texts = [as_text(vector) for vector in vectors]
            results: Sequence[Result] = [
                Embedding(text, item.stamp) for item, text in zip(batch, texts, strict=True)
            ]
        except errors.VisrecError as error:
            results = [error] * len(batch)
        except BaseException as error:
            results = [errors.EncoderUnavailable(f"the model failed: {error!r}")] * len(batch)
        self.images += len(batch)
        self.batches += 1
        for item, result in zip(batch, results, strict=True):
            item.finish(result)


def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=_or_die, args=(work,), daemon=True).start()


def _or_die(work: Callable[[], None]) -> None:
    """Runs a thread's work; should it fail in spite of everything, ends the process.

    Clients then see the connection close and start another encoder: better than one that is alive
    and answers nobody.
    """
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _held(item: _Item) -> bool:
    lazy = item.request.encoder
    wanted = not item.request.cancelled
    return wanted and item.request.bulk and lazy is not None and lazy.holds_bulk()


def _batch(item: _Item) -> int:
    lazy = item.request.encoder
    return lazy.encoder.batch if lazy is not None and lazy.encoder is not None else 1
