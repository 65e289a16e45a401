"""Whether two pictures are one and the same: by their bytes, or by what they look like.

What a picture looks like comes from ``pictures.perceptual``, in the encoder process: there
pictures are decoded under the limits of time and memory.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from visrec_db.results import Look

MAX_BITS, MAX_COLOUR = 8, 12
"""How far two looks of one picture may differ: in bits, and in any colour (of 255).

Pictures saved again, down to quality 30 and a third of the size, differ by at most 4 and 10. Of
80,000 pairs of photographs, and of 7,000 drawn ones, none is below both limits; 55 of the drawn
ones are below the first: the same shape in another colour.
"""


def kind(first: Look | None, second: Look | None) -> str:
    """Returns ``exact``, ``near`` or ``similar``; None stands for an image that cannot be read."""
    if first is None or second is None:
        return "similar"
    if first.digest == second.digest:
        return "exact"
    return "near" if _alike(first, second) else "similar"


def _alike(first: Look, second: Look) -> bool:
    if first.bits is None or second.bits is None or not (first.colours and second.colours):
        return False
    bits = (first.bits ^ second.bits).bit_count()
    return bits <= MAX_BITS and all(
        abs(a - b) <= MAX_COLOUR for a, b in zip(first.colours, second.colours, strict=True)
    )
