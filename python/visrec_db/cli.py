"""The ``visrec`` command: what an administrator does on the server, outside the database."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from visrec_db import __version__, errors
from visrec_db.models import models

DEFAULT_MODEL_DIRECTORY = "/var/lib/visrec/models"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 after a line and a hint on standard error."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except errors.VisrecError as error:
        print(f"visrec: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:  # no space, no permission
        print(f"visrec: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("visrec: interrupted", file=sys.stderr)
        return 130
    except _Terminated:
        print("visrec: terminated", file=sys.stderr)
        return 143
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visrec", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model = commands.add_parser("model", help="fetch and list models")
    actions = model.add_subparsers(required=True, metavar="ACTION")
    pull = actions.add_parser("pull", help="fetch a model, so that the server never has to")
    pull.add_argument("name", help="clip-ViT-B-32, or owner/name of another model on the hub")
    compiling = actions.add_parser(
        "compile", help="make the form that loads and runs fastest on CPUs (pull does it too)"
    )
    compiling.add_argument("name", help="a model that is here; see: visrec model list")
    for action in (pull, compiling):
        action.add_argument(
            "--exact",
            action="store_true",
            help="never in 8-bit integers, however alike the vectors",
        )
        action.add_argument(
            "--images",
            action="append",
            default=[],
            metavar="DIRECTORY",
            help="photographs on which number formats are compared, beside made-up pictures",
        )
    listing = actions.add_parser("list", help="the models that are here, with their fingerprints")
    for action, run in ((pull, _pull), (compiling, _compile), (listing, _list)):
        action.set_defaults(run=run)
        action.add_argument(
            "--directory",
            type=Path,
            default=os.environ.get("VISREC_MODEL_DIRECTORY", DEFAULT_MODEL_DIRECTORY),
            help="where models live [VISREC_MODEL_DIRECTORY] (default: %(default)s)",
        )
    return parser


def _pull(options: argparse.Namespace) -> None:
    from visrec_db.models import pulling  # noqa: PLC0415

    name = models.directory_name(options.name)
    said: list[str] = []

    def finish(directory: Path) -> None:
        _load(directory)
        try:
            said.append(_compiled(directory, name, options, again=False))
        except errors.EncoderUnavailable as error:  # the model itself is fine
            print(f"note: {error.message}", file=sys.stderr)

    os.umask(0o022)  # the server's operating-system user must be able to read it
    with _orderly_end():
        directory = pulling.pull(options.name, options.directory, finish)
        if not said:  # it was there already
            finish(directory)
    print("\n".join([f"{name} is in {directory}", *said]))
    print(f"Register it: SELECT visrec.register_model('{name}');")


class _Terminated(BaseException):
    """A signal to end: what is half done is removed on the way out."""


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP an exception, as SIGINT is; only the first of them counts."""

    def end(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        for each, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(each, end)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _load(directory: Path) -> None:
    from visrec_db.encoders import encoder  # noqa: PLC0415 - imports numpy and Pillow

    encoder.load(str(directory))


def _compile(options: argparse.Namespace) -> None:
    os.umask(0o022)
    name = models.directory_name(options.name)
    with _orderly_end():
        print(_compiled(options.directory / name, name, options, again=True))


def _compiled(directory: Path, name: str, options: argparse.Namespace, *, again: bool) -> str:
    from visrec_db.encoders import compiled  # noqa: PLC0415 - imports numpy and Pillow
    from visrec_db.models import compiling  # noqa: PLC0415

    manifest = None if again else compiled.usable(directory, directory / compiled.FOLDER)
    choice = manifest and compiled.Choice.read(directory / compiled.FOLDER)
    if manifest is None:
        manifest, choice = compiling.compile_model(
            directory, exact=options.exact, roots=options.images
        )
    texts = "pictures and texts" if manifest.text else "pictures"
    runs = f"; here it runs in {choice.form}" if choice else ""
    return f"{name} is compiled for {texts} (weights: {manifest.weights}{runs})"


def _list(options: argparse.Namespace) -> None:
    for directory in sorted(path for path in options.directory.glob("[!.]*") if path.is_dir()):
        try:
            print(f"{directory.name}\t{models.fingerprint(str(directory))}")
        except errors.EncoderUnavailable as error:  # this one is no model; the others are
            print(f"{directory.name}\t{error.message}")


if __name__ == "__main__":
    sys.exit(main())
