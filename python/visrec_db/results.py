"""What the encoder answers for an image that is fine; standard library only."""

from __future__ import annotations


class Embedding:
    """A vector in pgvector's text form, and the stamp of the file that it was made from.

    The stamp of an image given as bytes is None.
    """

    __slots__ = ("stamp", "vector")

    def __init__(self, vector: str, stamp: int | None) -> None:
        self.vector = vector
        self.stamp = stamp


class Look:
    """What tells whether two pictures are one.

    ``digest`` is the SHA-256 of the image's bytes; ``bits`` the 64 bits of its perceptual hash and
    ``colours`` mean colours, both None where it cannot be decoded.
    """

    __slots__ = ("bits", "colours", "digest")

    def __init__(self, digest: str, bits: int | None, colours: list[int] | None) -> None:
        self.digest = digest
        self.bits = bits
        self.colours = colours
