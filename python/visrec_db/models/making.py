"""The encoder's child that compiles a model into the cache, or measures one compiled elsewhere.

A process of its own: torch's memory is gone afterwards, and pictures are served meanwhile. Not at
a low priority: beside a backfill it would take many times as long, and the backfill with it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visrec_db import errors
from visrec_db.encoders import compiled
from visrec_db.models import kept, models

GROWTH = 2
"""Times the model's size that the work may take on disk."""


def main() -> None:
    """Runs ``python -c … DIRECTORY FINGERPRINT CACHE [ROOT…]``: JSON on the standard output.

    Ends with the encoder process, whose end closes the input.
    """
    directory, fingerprint, cache, *roots = sys.argv[1:]
    os.umask(0o077)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the log
    try:
        make(Path(directory), fingerprint, Path(cache), roots)
        answer: dict[str, Any] = {}
    except errors.VisrecError as error:
        answer = {"reason": error.message, "hint": error.hint}
    except OSError as error:
        answer = {"reason": str(error), "hint": None}
    answers.write(json.dumps(answer))
    answers.flush()
    os._exit(0)  # a decoder may still hang


def _exit_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


def make(directory: Path, fingerprint: str, cache: Path, roots: Sequence[str]) -> None:
    """Fills the model's entry in the cache with what is missing: a compiled form, or a choice."""
    from visrec_db.models import compiling  # noqa: PLC0415 - imports numpy and Pillow

    with kept.opened(cache):
        found = compiled.find(directory, fingerprint, cache)
        if found is not None and found.choice is not None:
            return
        if found is not None:
            choice = compiling.measure(found, roots)
            with kept.entry(cache, fingerprint, 0) as work:
                choice.write(work)
            return
        size = sum(file.stat().st_size for file in models.sources(directory))
        try:
            with kept.entry(cache, fingerprint, GROWTH * size) as work:
                manifest, _ = compiling.make(directory, work, roots=roots)
                if manifest.fingerprint != fingerprint:
                    raise errors.EncoderUnavailable("the model has other weights than registered")
        except errors.EncoderUnavailable as error:
            if error.hint == compiling.WITHOUT:  # the model is at fault, now and tomorrow
                kept.refuse(cache, fingerprint, error.message)
            raise
