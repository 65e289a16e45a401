"""The demo's model: what was asked for, or CLIP where it can be had, or pixels."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg

from picture_files import Connection

CLIP = "clip-ViT-B-32"
INSTALLED = Path("/var/lib/visrec/models")
INSTEAD = """\
The model is `pixels`, then: it compares colours and shapes, and knows nothing of what they mean.
  For CLIP: make demo again where the network reaches huggingface.co; or have another machine
  run `visrec model pull {clip} --directory DIRECTORY`, copy what it made, and here:
  make demo MODEL=DIRECTORY/{clip}"""


def choose_model(connection: Connection, wanted: str | None, shared: Path, kept: Path) -> str:
    """The name of the model, registered.

    A directory is copied to ``shared`` where the server cannot read it; what is fetched goes to
    ``kept``.
    """
    if wanted == "pixels":
        return wanted
    if wanted and Path(wanted).expanduser().is_dir():
        return register_directory(connection, Path(wanted).expanduser().resolve(), shared)
    name = wanted or CLIP
    if "/" in name and not Path(name).parent.is_dir() and name.startswith(("/", ".", "~")):
        sys.exit(f"error: there is no directory {name}\n  fix: make demo MODEL=DIRECTORY")
    directory_name = name.rpartition("/")[2]
    for models in (INSTALLED, kept / "models"):
        if (models / directory_name).is_dir():
            register(connection, directory_name, models / directory_name)
            return directory_name
    if pull(name, kept / "models"):
        register(connection, directory_name, kept / "models" / directory_name)
        return directory_name
    if wanted:
        sys.exit(
            f"error: the model {name} is not here and cannot be fetched\n"
            "  fix: make demo MODEL=DIRECTORY with a model, or MODEL=pixels, which is always there"
        )
    print(INSTEAD.format(clip=CLIP))
    return "pixels"


def register_directory(connection: Connection, directory: Path, shared: Path) -> str:
    """Registers a model under its directory's name, a copy of it where the server needs one."""
    name = directory.name
    try:
        register(connection, name, directory)
    except psycopg.Error:  # perhaps not readable for the server's user
        copy = shared / "models" / name
        shutil.copytree(directory, copy, dirs_exist_ok=True)
        register(connection, name, copy)
    return name


def register(connection: Connection, name: str, directory: Path) -> None:
    print(f"loading the model {name} from {directory}", flush=True)
    connection.execute("SELECT visrec.register_model(%s, %s)", (name, str(directory)))


def pull(name: str, models: Path) -> bool:
    """Fetches a model, on a terminal with the hub's own bars; False, its error said, if not."""
    size = "some 600 MB, " if name == CLIP else ""
    print(f"fetching the model {name} ({size}once)", flush=True)
    command = ["visrec", "model", "pull", name, "--directory", str(models)]
    patience = {"HF_HUB_ETAG_TIMEOUT": "10", "HF_HUB_DOWNLOAD_TIMEOUT": "20"}
    if not sys.stderr.isatty():
        patience["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        done = subprocess.run(command, env=os.environ | patience, check=False)  # noqa: S603
    except OSError as error:
        print(f"  {error}")
        return False
    return done.returncode == 0
