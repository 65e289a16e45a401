"""The pictures that the demo takes: where they are, and that the server can read them."""

import shutil
import sys
from pathlib import Path
from typing import Any

import psycopg

import draw_pictures
from progress import bar

SUFFIXES = {".avif", ".bmp", ".gif", ".ico", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".tga"}
SUFFIXES |= {".tif", ".tiff", ".webp"}
DRAWN = 360
LARGEST_COPY = 5 << 30

Connection = psycopg.Connection[tuple[Any, ...]]


def drawn(directory: Path) -> Path:
    """The directory with the drawn pictures, drawn now if no earlier run has."""
    if not directory.is_dir():
        unfinished = directory.with_name(f"{directory.name}.unfinished")
        with bar(f"drawing {DRAWN} pictures", DRAWN) as shown:
            draw_pictures.draw_all(unfinished, DRAWN, each=shown.update)
        unfinished.rename(directory)
    return directory


def find_pictures(directory: Path) -> list[Path]:
    """Pictures in a directory and below it, relative to it, in a stable order.

    Hidden files and folders are left out, and names that are no UTF-8, which a text cannot hold.
    """
    found = []
    for path in directory.rglob("*"):
        inside = path.relative_to(directory)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and is_text(inside) and path.is_file():
            found.append(inside)
    return sorted(found)


def is_text(path: Path) -> bool:
    """Whether a path is what PostgreSQL takes for text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def readable_by_server(connection: Connection, pictures: Path, shared: Path) -> Path:
    """The pictures' directory, or a copy of it where the server's user cannot read it."""
    found = find_pictures(pictures)
    if not found:
        sys.exit(f"error: no pictures in {pictures}\n  fix: name a folder with JPEG or PNG files")
    if ":" not in str(pictures) and is_text(pictures):  # ":" stands between two image_roots
        try:
            connection.execute("SELECT pg_read_binary_file(%s, 0, 1)", (str(pictures / found[0]),))
        except psycopg.Error:
            pass
        else:
            return pictures
    return copied(found, pictures, shared / "copied")


def copied(found: list[Path], pictures: Path, copy: Path) -> Path:
    """A copy of the pictures in a place that the server can read."""
    size = sum((pictures / path).stat().st_size for path in found)
    if size > LARGEST_COPY:
        sys.exit(
            f"error: PostgreSQL's user cannot read {pictures}, and it is too large to copy\n"
            f"  fix: chmod -R a+rX {pictures} and make the directories above it enterable"
        )
    shutil.rmtree(copy, ignore_errors=True)
    what = f"PostgreSQL's user cannot read {pictures}: copying {(size >> 20) + 1} MB to {copy}"
    with bar(what, len(found)) as shown:
        for path in found:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pictures / path, copy / path)
            shown.update()
    return copy
