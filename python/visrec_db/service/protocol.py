"""What a backend and the encoder process say to each other, over a local socket.

A frame is four bytes with the length of a JSON header, the header, and the header's ``blobs``
(images given as bytes), whose lengths stand in it. The client sends one request and reads frames
until one has ``done``; each repeats the request's number. The server sends ``alive`` frames while
it works, so silence means that it hangs. A backend's working directory is its data directory, so
the socket's path is short however long the data directory's is. Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import struct

from visrec_db import __version__, errors

TYPE_CHECKING = False
if TYPE_CHECKING:  # a new session imports this module: what only types need costs it nothing
    from collections.abc import Sequence
    from typing import Any

DIRECTORY = "pg_stat_tmp"
"""Below the data directory, which only the server's user may enter. Not in base backups."""

SOCKET = f"{DIRECTORY}/visrec.sock"
LOCK = f"{DIRECTORY}/visrec.lock"
STARTING = f"{DIRECTORY}/visrec.starting"
LOG = f"{DIRECTORY}/visrec.log"
COMPILED = f"{DIRECTORY}/visrec-models"

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

ALIVE_EVERY = 2.0
"""Seconds between signs of life while a request is worked on."""

MAX_SILENCE = 30.0
"""Seconds without a sign of life after which a client gives the encoder up."""

MAX_HEADER_BYTES = 1 << 28

MAX_BLOB_BYTES = 64 << 20
"""Bytes of images in one request, unless a single image is larger."""

MAX_SAMPLE_NUMBERS = 20_000_000
"""Numbers in a sample of which the principal components are asked for: 80 MB."""

LENGTH = struct.Struct("!I")


def build() -> str:
    """Returns what must be the same on both sides: the version and the installed files."""
    return f"{__version__}+{os.stat(PACKAGE).st_mtime_ns:x}"


def policy(settings: dict[str, str]) -> dict[str, Any]:
    """Returns what the administrator's settings allow, as ``files.Policy.from_dict`` reads it."""
    return {
        "roots": [root for root in settings["image_roots"].split(":") if root],
        "max_bytes": int(settings["max_image_bytes"]),
        "max_pixels": int(settings["max_image_pixels"]),
        "max_seconds": int(settings["max_image_seconds"]),
    }


def check_sample(size: int, dimension: int, dims: int) -> None:
    """Raises ``InvalidRequest`` where a sample of ``size`` bytes cannot have such components."""
    numbers, rest = divmod(size, 4)
    if not 1 <= dims <= dimension:
        raise errors.InvalidRequest(
            f"{dims} components of vectors of {dimension} numbers cannot be computed",
            hint=f"Ask for 1 to {dimension}." if dimension >= 1 else None,
        )
    if rest or numbers == 0 or numbers % dimension:
        raise errors.InvalidRequest(
            f"a sample of {size} bytes does not consist of vectors of {dimension} numbers"
        )
    if numbers > MAX_SAMPLE_NUMBERS:
        raise errors.InvalidRequest(
            f"the sample has {numbers} numbers, more than {MAX_SAMPLE_NUMBERS}",
            hint="Sample fewer rows.",
        )


def pack(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Returns a frame as bytes; raises ``InvalidRequest`` where its header is too long."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise header_too_long(len(text))
    return b"".join([LENGTH.pack(len(text)), text, *blobs])


def header_too_long(size: int) -> errors.InvalidRequest:
    """Returns what is then wrong with a request or an answer."""
    return errors.InvalidRequest(
        f"a message to or from the encoder has {size} bytes, more than {MAX_HEADER_BYTES}"
    )


def unpack_header(text: bytes) -> tuple[dict[str, Any], list[int]]:
    """Returns the header and the lengths of the blobs that follow it."""
    header = json.loads(text)
    return header, header.pop("blobs")


def connect() -> socket.socket | None:
    """Returns a connection to the encoder; None where none listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(SOCKET)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise errors.EncoderUnavailable(
            f"the encoder's socket cannot be reached: {error.strerror}"
        ) from error
    return sock
