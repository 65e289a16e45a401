"""The compiled form of a model as it lies on disk, and which of its number formats runs here.

It is one folder, made by ``models.compiling`` and compared with torch before it was kept::

    visrec.json    ``Manifest``: what it was made from, and how inputs are prepared
    image.xml+bin  bytes of pictures (n, height, width, 3) to vectors (n, dimension)
    image-int8.xml+bin  the same in 8-bit integers, where those lose nothing
    text.xml+bin   token ids and mask (n, tokens) to vectors, where the model has texts
    tokenizer.json how texts become token ids
    choice.json    ``Choice``: what was measured on the processor named there

An administrator's own, by ``visrec model compile``, is beside the model in ``openvino``. Else the
server's user has one in its cache (``models.kept``), made by the encoder process. Nothing is used
that was made from other weights than those in the model's directory.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from visrec_db.encoders import hardware, preprocess
from visrec_db.models import kept, models

FOLDER = models.COMPILED
IMAGE, IMAGE_INT8, TEXT, TOKENIZER = "image.xml", "image-int8.xml", "text.xml", "tokenizer.json"
FORMAT = 2
"""Of the manifest and of the graphs' inputs and outputs; another is not read."""

MANIFEST, CHOICE = "visrec.json", "choice.json"

TORCH = "torch f32"
"""The form that needs no compiled one, where it was measured to be the fastest all the same."""


@dataclass(frozen=True)
class Text:
    """How the tokenizer is used."""

    max_length: int
    pad_id: int


@dataclass(frozen=True)
class Manifest:
    """``visrec.json``.

    ``sources`` and ``files`` hold size and time of modification (nanoseconds) of the model's
    files, and size of the compiled ones. ``fingerprint`` is the model's: it decides where a copy
    has changed the times. ``runtime`` is the OpenVINO that made it, for people to read. ``int8``:
    whether there is ``image-int8.xml``.
    """

    format: int
    runtime: str
    fingerprint: str
    sources: dict[str, list[int]]
    files: dict[str, int]
    dimension: int
    weights: str
    image: preprocess.Settings
    text: Text | None
    int8: bool = False

    def write(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises OSError, ValueError, TypeError or KeyError where none can be read."""
        fields = json.loads((folder / MANIFEST).read_text())
        if fields["format"] != FORMAT:
            raise ValueError(f"its format is {fields['format']}, not {FORMAT}")
        text = Text(**fields["text"]) if fields["text"] else None
        return cls(
            **{
                **fields,
                "image": preprocess.Settings.from_json(fields["image"]),
                "text": text,
            }
        )


@dataclass(frozen=True)
class Trial:
    """What one form took for a picture, in batches and alone, and what became of it."""

    form: str
    milliseconds: float
    alone: float
    verdict: str


@dataclass(frozen=True)
class Choice:
    """``choice.json``: the form that runs on a processor, and the trials that it comes from."""

    processor: str
    form: str
    trials: tuple[Trial, ...]

    @property
    def milliseconds(self) -> float:
        """Of the form that runs, for a picture in batches."""
        return next(trial.milliseconds for trial in self.trials if trial.form == self.form)

    def described(self) -> str:
        """Returns the trials as people read them."""
        return "; ".join(
            f"{t.form}: {t.milliseconds:g} ms, {t.alone:g} alone, {t.verdict}" for t in self.trials
        )

    def write(self, folder: Path) -> None:
        """Puts it in place in one step: it may be read meanwhile."""
        unfinished = folder / f".{CHOICE}-{os.getpid()}"
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n")
        unfinished.replace(folder / CHOICE)

    @classmethod
    def read(cls, folder: Path) -> Choice | None:
        """Returns what was measured on this kind of processor; None where nothing was."""
        try:
            fields = json.loads((folder / CHOICE).read_text())
            trials = tuple(Trial(**trial) for trial in fields.pop("trials"))
            found = cls(**{**fields, "trials": trials})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        known = found.form in {trial.form for trial in trials}
        return found if known and found.processor == hardware.processor() else None


@dataclass(frozen=True)
class Compiled:
    """A whole compiled form of the very model in its directory; ``choice`` None: not measured."""

    folder: Path
    manifest: Manifest
    choice: Choice | None


def find(directory: Path, fingerprint: str | None, cache: Path | None) -> Compiled | None:
    """Returns the compiled form to use: the administrator's own, else the one in the cache.

    ``fingerprint`` is what the model was registered with; without it, the cache is not looked at.
    """
    ours = kept.place(cache, fingerprint) if cache and fingerprint and kept.is_ours(cache) else None
    for folder in (directory / FOLDER, ours):
        if folder is None or not is_there(folder):
            continue
        manifest = usable(directory, folder)
        if manifest is not None:
            choice = Choice.read(folder) or (Choice.read(ours) if ours else None)
            if choice is not None and "int8" in choice.form and not manifest.int8:
                choice = None
            return Compiled(folder, manifest, choice)
    return None


def is_there(folder: Path) -> bool:
    """Returns whether the folder has a compiled form."""
    return (folder / MANIFEST).is_file()


def usable(directory: Path, folder: Path) -> Manifest | None:
    """Returns the manifest of a whole compiled form of the very model in ``directory``, or None.

    Files that look untouched are believed; others are hashed, which takes about a second. A folder
    in which anybody may write is not.
    """
    try:
        if stat.S_IMODE(folder.stat().st_mode) & stat.S_IWOTH:
            return None
        manifest = Manifest.read(folder)
        for name, size in manifest.files.items():
            if (folder / name).stat().st_size != size:
                return None
        sources = stamps(directory)
        if sources == manifest.sources:
            return manifest
        if {name: stamp[0] for name, stamp in sources.items()} != {
            name: stamp[0] for name, stamp in manifest.sources.items()
        }:
            return None
        same = models.fingerprint(str(directory)) == manifest.fingerprint
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return replace(manifest, sources=sources) if same else None


def stamps(directory: Path) -> dict[str, list[int]]:
    """Returns size and time of modification of each file that makes the model what it is."""
    return {
        str(file.relative_to(directory)): [file.stat().st_size, file.stat().st_mtime_ns]
        for file in models.sources(directory)
    }


def as_status(choice: Choice | None) -> dict[str, Any]:
    """Returns what ``visrec.encoder_status`` shows of it."""
    if choice is None:
        return {"milliseconds": None, "tried": None}
    return {"milliseconds": choice.milliseconds, "tried": choice.described()}
