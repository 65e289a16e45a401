"""What ``visrec.reduce`` asks of the encoder process, and the answer; without numpy.

A sample of vectors goes there as a text, and ``components.py`` runs there as a model does.
"""

from __future__ import annotations

import base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REDUCTION = "reduction-1"
"""The fingerprint of the "model" in ``components.py``."""


def request(sample: bytes, dimension: int, dims: int) -> str:
    """``sample``: vectors of ``dimension`` numbers, as big-endian float32 on end."""
    return f"{dims} {dimension} {base64.b64encode(sample).decode()}"


def parse_request(text: str) -> tuple[bytes, int, int]:
    """The arguments of ``request``."""
    dims, dimension, sample = text.split()
    return base64.b64decode(sample), int(dimension), int(dims)


def parse_answer(text: str, dimension: int) -> dict[str, Any]:
    """The components as vectors in pgvector's text form, and what they keep."""
    variance, neighbours, recall, *numbers = text[1:-1].split(",")
    rows = [numbers[start : start + dimension] for start in range(0, len(numbers), dimension)]
    return {
        "components": ["[" + ",".join(row) + "]" for row in rows],
        "variance": round(float(variance), 6),
        "neighbours": round(float(neighbours), 6),
        "recall": round(float(recall), 6),
    }
