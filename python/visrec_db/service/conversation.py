"""What clients ask of the encoder: one method for each operation of the protocol."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from visrec_db import errors
from visrec_db.encoders import compiled
from visrec_db.encoders.encoder import Encoder, as_text, load
from visrec_db.models import models
from visrec_db.pictures import files
from visrec_db.pictures.images import Source
from visrec_db.results import Embedding, Look
from visrec_db.service import components, preparing, protocol
from visrec_db.service.peer import Peer
from visrec_db.service.preparing import Preparing
from visrec_db.service.scheduler import LazyEncoder, Request, Result, Scheduler

SENT = Embedding("", None)
"""Takes the place of results that have been sent."""

Header = dict[str, Any]
T = TypeVar("T")


class Service:
    """What all conversations share: the models and the threads that run them."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(decoders=max(2, len(os.sched_getaffinity(0))))
        self.one_child = asyncio.Semaphore(1)
        self.preparing = Preparing()
        self._encoders: dict[tuple[str, str | None, str | None], LazyEncoder] = {}

    def encoder(
        self, policy: Header, name: str, directory: str | None, fingerprint: str | None
    ) -> LazyEncoder:
        """Returns the encoder of a registered model, which is loaded when it is needed."""
        key = (name, directory, fingerprint)
        if key not in self._encoders:
            loop = asyncio.get_running_loop()

            def loaded(lazy: LazyEncoder) -> None:
                loop.call_soon_threadsafe(self.preparing.consider, lazy, policy["roots"])

            by = partial(load, cache=preparing.CACHE)
            self._encoders[key] = LazyEncoder(directory, fingerprint, by, loaded=loaded)
        return self._encoders[key]

    def status(self) -> dict[str, Any]:
        """Returns the loaded models, and how much was done."""
        encoders = [
            {
                "model": name,
                "fingerprint": fingerprint,
                "runtime": lazy.encoder.runtime,
                "precision": lazy.encoder.precision,
                "device": lazy.encoder.device,
                **compiled.as_status(lazy.encoder.choice),
                "compiling": lazy.compiling is not None,
                "slow": lazy.slow,
            }
            for (name, _, fingerprint), lazy in self._encoders.items()
            if lazy.encoder is not None
        ]
        return {
            "models": encoders,
            "images": self.scheduler.images,
            "batches": self.scheduler.batches,
            "waiting": self.scheduler.waiting(),
        }


@dataclass
class _Work:
    """Images at the scheduler. ``changed`` is set when results have come."""

    request: Request
    changed: asyncio.Event


class Conversation:
    """One client's requests, in their order.

    ``_ahead`` is work on what the client said that it would ask for next: ``_ahead_of``.
    """

    def __init__(self, service: Service, peer: Peer) -> None:
        self._service = service
        self._peer = peer
        self._ahead: _Work | None = None
        self._ahead_of: list[Any] = []
        self._operations = {
            "images": self._images,
            "perceptual": self._perceptual,
            "text": self._text,
            "warm": self._warm,
            "inspect": self._inspect,
            "components": self._components,
            "stamps": self._stamps,
        }

    async def answer(self, header: Header, blobs: list[bytes]) -> None:
        """Sends the frames of one answer, the last of which is ``done``."""
        try:
            operation = self._operations.get(header["op"])
            if operation is None:
                raise errors.InvalidRequest(f'operation "{header["op"]}" does not exist')
            await operation(header, blobs)
        except errors.VisrecError as error:
            await self._peer.send_error(error)

    def close(self) -> None:
        """Drops the work ahead: the client went away, or asked for something else."""
        if self._ahead is not None:
            self._ahead.request.cancelled = True
            self._ahead = None

    async def _images(self, header: Header, blobs: list[bytes]) -> None:
        encoder = self._service.encoder(header["policy"], *header["model"])
        work = self._take_ahead(header) if header["continues"] else None
        self.close()
        if work is None:
            work = self._submit(encoder, header, _sources(header, blobs))
        if header["ahead"]:
            self._ahead = self._submit(encoder, header, header["ahead"])
            self._ahead_of = [header["model"], header["policy"], header["ahead"]]
        await self._send_results(work)

    async def _perceptual(self, header: Header, blobs: list[bytes]) -> None:
        await self._send_results(self._submit(None, header, _sources(header, blobs)))

    async def _send_results(self, work: _Work) -> None:
        """Sends results as they come, consecutive ones together, in order."""
        results = work.request.results
        sent = 0
        try:
            while sent < len(results):
                await self._peer.wait(work.changed.wait())
                work.changed.clear()
                end = sent
                found = []
                while end < len(results) and (result := results[end]) is not None:
                    found.append(_on_the_wire(result))
                    results[end] = SENT
                    end += 1
                if end > sent:
                    sent = end
                    await self._peer.send({"results": found, "done": sent == len(results)})
        finally:
            work.request.cancelled = True  # what is left of it is no longer wanted
        if not results:
            await self._peer.send({"done": True})

    def _take_ahead(self, header: Header) -> _Work | None:
        """Returns the work ahead, if it was for what this request asks for."""
        work = self._ahead
        if self._ahead_of != [header["model"], header["policy"], header["items"]]:
            return None
        self._ahead = None
        return work

    def _submit(self, encoder: LazyEncoder | None, header: Header, sources: list[Source]) -> _Work:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def progress() -> None:
            loop.call_soon_threadsafe(changed.set)

        policy = files.Policy.from_dict(header["policy"])
        request = Request(encoder, sources, policy, header["bulk"], progress)
        self._service.scheduler.submit(request)
        return _Work(request, changed)

    async def _text(self, header: Header, _: list[bytes]) -> None:
        embedding = await self._in_forward_thread(
            header,
            header["model"],
            lambda encoder: as_text(encoder.encode_texts([header["query"]])[0]),
        )
        await self._peer.send({"embedding": embedding, "done": True})

    async def _warm(self, header: Header, _: list[bytes]) -> None:
        dimension = await self._in_forward_thread(
            header, header["model"], lambda found: found.dimension
        )
        await self._peer.send({"dimension": dimension, "done": True})

    async def _inspect(self, header: Header, _: list[bytes]) -> None:
        name, directory = header["model"][:2]
        fingerprint = await self._in_a_thread(lambda: models.fingerprint(directory))
        model = [name, directory, fingerprint]
        dimension = await self._in_forward_thread(header, model, lambda found: found.dimension)
        lazy = self._service.encoder(header["policy"], *model)
        slow = preparing.BEING_MADE if lazy.compiling else lazy.slow
        answer = {"fingerprint": fingerprint, "dimension": dimension, "slow": slow}
        await self._peer.send({**answer, "done": True})

    async def _components(self, header: Header, blobs: list[bytes]) -> None:
        dimension, dims = header["dimension"], header["dims"]
        sample = b"".join(blobs)
        blobs.clear()
        protocol.check_sample(len(sample), dimension, dims)

        async def compute() -> dict[str, Any]:
            async with self._service.one_child:
                return await components.run_child(sample, dimension, dims)

        await self._peer.send({**await self._peer.wait(compute()), "done": True})

    async def _stamps(self, header: Header, _: list[bytes]) -> None:
        policy = files.Policy.from_dict(header["policy"])
        stamps = await self._in_a_thread(lambda: files.file_stamps(header["paths"], policy))
        await self._peer.send({"stamps": stamps, "done": True})

    async def _in_a_thread(self, job: Callable[[], T]) -> T:
        return await self._peer.wait(asyncio.get_running_loop().run_in_executor(None, job))

    async def _in_forward_thread(
        self, header: Header, model: list[Any], use: Callable[[Encoder], T]
    ) -> T:
        """Returns what ``use`` makes of the loaded encoder."""
        lazy = self._service.encoder(header["policy"], *model)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: errors.VisrecError | None) -> None:
            if future.done():
                return  # the client has gone
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def job() -> None:
            result, failed = None, None
            try:
                result = use(lazy.get())
            except errors.VisrecError as error:
                failed = error
            except Exception as error:
                failed = errors.EncoderUnavailable(f"the model failed: {error!r}")
            loop.call_soon_threadsafe(finish, result, failed)

        self._service.scheduler.run(job)
        return await self._peer.wait(future)


def _sources(header: Header, blobs: list[bytes]) -> list[Source]:
    """Returns the images asked for: paths as they are, a blob for each None. Empties ``blobs``."""
    given = iter(blobs)
    sources = [next(given) if item is None else item for item in header["items"]]
    blobs.clear()
    return sources


def _on_the_wire(result: Result) -> list[Any] | dict[str, Any]:
    match result:
        case Embedding():
            return [result.vector, result.stamp]
        case Look():
            return [result.digest, result.bits, result.colours]
        case _:
            return result.as_dict()
