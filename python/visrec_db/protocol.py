"""What a backend and the encoder process say to each other, over a local socket.

A frame is four bytes with the length of a JSON header, the header, and the header's ``blobs``
(images given as bytes), whose lengths stand in it. The client sends one request and reads frames
until one has ``done``; the server sends ``alive`` frames while it works, so silence means it hangs.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

DIRECTORY = "pg_stat_tmp"
"""Below the data directory, which only the server's user may enter. Not in base backups."""

SOCKET = f"{DIRECTORY}/visrec.sock"
LOCK = f"{DIRECTORY}/visrec.lock"
STARTING = f"{DIRECTORY}/visrec.starting"
LOG = f"{DIRECTORY}/visrec.log"

ALIVE_EVERY = 2.0
"""Seconds between signs of life while a request is worked on."""

SILENCE = 30.0
"""Seconds without a sign of life after which a client gives the encoder up."""

MOST_HEADER = 1 << 28

LENGTH = struct.Struct("!I")


def policy(settings: dict[str, str]) -> dict[str, Any]:
    """What the administrator's settings allow, as a request says it: see ``images.Policy``."""
    return {
        "roots": [root for root in settings["image_roots"].split(":") if root],
        "max_bytes": int(settings["max_image_bytes"]),
        "max_pixels": int(settings["max_image_pixels"]),
        "max_seconds": int(settings.get("max_image_seconds", 20)),  # 0.1.0 has none
    }


def pack(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """A frame as bytes."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([LENGTH.pack(len(text)), text, *blobs])


def unpack_header(text: bytes) -> tuple[dict[str, Any], list[int]]:
    """The header and the lengths of the blobs that follow it."""
    header = json.loads(text)
    return header, header.pop("blobs")
