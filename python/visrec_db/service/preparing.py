"""Has registered models compiled and measured, in the background, while they serve as they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visrec_db.encoders.encoder import Encoder
from visrec_db.models import kept
from visrec_db.service import protocol
from visrec_db.service.scheduler import LazyEncoder

log = logging.getLogger("visrec_db")

CACHE = Path(protocol.COMPILED)

BEING_MADE = (
    "its compiled form is being made",
    "It is used as soon as it is there: see visrec.encoder_status().",
)

MOST_SECONDS = 3600
"""For one model; then it is given up until the encoder starts anew."""

MODEL_AT_FAULT = "It works as it is; register a model that can be compiled where speed matters."
LOOK_AT_THE_LOG = f"See {protocol.LOG} in the data directory; visrec.encoder_restart() tries again."


class Preparing:
    """One child at a time; see ``models.making`` for what it does."""

    def __init__(self) -> None:
        self._one = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether a child is at work or waits for its turn."""
        return bool(self._tasks)

    def consider(self, lazy: LazyEncoder, roots: Sequence[str]) -> None:
        """Starts what a model that has just been loaded lacks. In the event loop's thread."""
        encoder, fingerprint = lazy.encoder, lazy.fingerprint
        if encoder is None or lazy.directory is None or fingerprint is None:
            return
        if encoder.device != "cpu" or encoder.choice is not None:
            return
        if encoder.runtime == "torch":
            reason = kept.refused(CACHE, fingerprint)
            if reason is not None:
                lazy.slow = (reason, MODEL_AT_FAULT)
                return
            lazy.compiling = time.monotonic()
        task = asyncio.create_task(self._prepare(lazy, lazy.directory, fingerprint, roots))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(
        self, lazy: LazyEncoder, directory: str, fingerprint: str, roots: Sequence[str]
    ) -> None:
        async with self._one:
            try:
                answer = await _run_child(directory, fingerprint, roots)
            except OSError as error:  # no process, no memory
                answer = {"reason": f"its compiled form cannot be made: {error}"}
        if "reason" not in answer:
            loop = asyncio.get_running_loop()
            try:
                encoder = await loop.run_in_executor(None, lazy.load, directory, fingerprint)
            except Exception as error:
                answer = {"reason": f"its compiled form cannot be loaded: {error}"}
            else:
                if encoder.choice is not None:
                    lazy.replace(encoder)
                    return
                answer = {"reason": "its compiled form cannot be loaded"}
        lazy.compiling = None
        log.warning('the model in "%s": %s', directory, answer["reason"])
        if _runs_slowly(lazy.encoder):
            at_fault = kept.refused(CACHE, fingerprint) is not None
            advice = MODEL_AT_FAULT if at_fault else answer.get("hint") or LOOK_AT_THE_LOG
            lazy.slow = (answer["reason"], advice)


def _runs_slowly(encoder: Encoder | None) -> bool:
    return encoder is not None and encoder.runtime == "torch" and encoder.device == "cpu"


async def _run_child(directory: str, fingerprint: str, roots: Sequence[str]) -> dict[str, Any]:
    """Returns what the child answers: nothing, or the ``reason`` why there is no compiled form."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(protocol.PACKAGE).parent)!r});"
        " from visrec_db.models import making; making.main()"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", script, directory, fingerprint, str(CACHE), *roots),
        stdin=asyncio.subprocess.PIPE,  # ends with this process
        stdout=asyncio.subprocess.PIPE,
    )
    if child.stdout is None:
        raise AssertionError("a pipe was asked for")
    output = b""
    try:
        with contextlib.suppress(TimeoutError):
            output = await asyncio.wait_for(child.stdout.read(), MOST_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        return {"reason": f"making its compiled form ended with status {child.returncode}"}
    return answer
